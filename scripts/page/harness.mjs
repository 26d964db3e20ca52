// A list of named tests that are run one after another, and a line that counts them.

const tests = [];

export function test(name, body) {
  tests.push({ name, body });
}

// Runs what is registered; `only` is a part of a name, to run a few by hand.
export async function runAll(only = "") {
  let numPassed = 0;
  let numFailed = 0;
  for (const { name, body } of tests.filter((candidate) => candidate.name.includes(only))) {
    const began = performance.now();
    try {
      await body();
      numPassed++;
      console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
    } catch (error) {
      numFailed++;
      console.log(`FAILED ${name}\n${error?.stack ?? error}`);
    }
  }
  return { numPassed, numFailed };
}

// Numbers from 0 to 1 that are the same in each run.
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
