// Vercel's AI SDK with its provider for DeepSeek: text, streams, reasoning, tools, objects, metadata, errors.

import { createDeepSeek } from '@ai-sdk/deepseek';
import { DeepSeekChatLanguageModel } from '@ai-sdk/deepseek/internal';
import { APICallError, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';

import { equal, holds, main, note, table, test, throws } from './cases.mjs';
import { CHAT, checkRunning, countPromptTokens, ENDLESS, KEY, KEYED_SERVER, QUESTION, REASONER, SERVER, WRONG_KEY } from './contract.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

/** A provider whose requests get members that it does not send itself, such as the seed; the last request is noted. */
function connect({ path = '/v1', server = SERVER, apiKey = 'none', extra = {} } = {}) {
  const send = (url, options) => {
    const body = JSON.stringify({ seed: 7, ...JSON.parse(options.body), ...extra });
    note('request', body);
    return fetch(url, { ...options, body });
  };
  return createDeepSeek({ baseURL: `${server}${path}`, apiKey, fetch: send });
}

const deepseek = connect();
const beta = connect({ path: '/beta' });
const BASE = { prompt: QUESTION[0].content, maxOutputTokens: 160, maxRetries: 0 };
const THINK = { deepseek: { thinking: { type: 'enabled' } } };
const BRIEF = { thinking_token_budget: 10, min_tokens: 30 };

const content = parts =>
  parts.map(({ type, text, toolName, input }) => ({ type, ...(text !== undefined && { text }), ...(toolName && { toolName, input }) }));

function checkUsage(usage, thinking) {
  note('usage', usage);
  equal('totalTokens', usage.totalTokens, usage.inputTokens + usage.outputTokens);
  const { cacheReadTokens, noCacheTokens } = usage.inputTokenDetails;
  equal('cache hits and misses together', cacheReadTokens + noCacheTokens, usage.inputTokens);
  const { reasoningTokens, textTokens } = usage.outputTokenDetails;
  equal('tokens of reasoning and text together', reasoningTokens + textTokens, usage.outputTokens);
  if (!thinking) equal('tokens of reasoning', reasoningTokens, 0);
}

function checkMetadata({ deepseek: metadata }, usage) {
  note('metadata', metadata);
  equal('promptCacheHitTokens', metadata.promptCacheHitTokens, usage.inputTokenDetails.cacheReadTokens);
  equal('promptCacheMissTokens', metadata.promptCacheMissTokens, usage.inputTokens - metadata.promptCacheHitTokens);
  holds('a fingerprint', metadata.systemFingerprint?.startsWith('fp_'), metadata);
}

async function askBothWays(request, thinking = false) {
  request = { ...BASE, ...request };
  const whole = await generateText(request);
  note('content', whole.content);
  checkUsage(whole.usage, thinking);
  checkMetadata(whole.providerMetadata, whole.usage);
  const stream = streamText({ ...request, onError: ({ error }) => note('error of the stream', String(error)) });
  const kinds = [];
  for await (const part of stream.fullStream) {
    holds('no part that is an error', part.type !== 'error', part);
    if (kinds.at(-1) !== part.type) kinds.push(part.type);
  }
  note('kinds of parts', kinds);
  equal('content of the stream', content(await stream.content), content(whole.content));
  equal('finishReason of the stream', await stream.finishReason, whole.finishReason);
  equal('outputTokens of the stream', (await stream.usage).outputTokens, whole.usage.outputTokens);
  checkMetadata(await stream.providerMetadata, await stream.usage);
  return { whole, kinds };
}

table(
  'text',
  [
    ['a prompt', {}],
    ['messages', { prompt: undefined, system: 'You know whales.', messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello!' }, ...QUESTION] }],
    ['parts', { prompt: undefined, messages: [{ role: 'user', content: [{ type: 'text', text: 'Hello ' }, { type: 'text', text: '海豚 🐬' }] }] }],
    ['greedy', { temperature: 0 }],
    ['stop sequences', { stopSequences: ['e', '\n'] }],
    ['one token', { maxOutputTokens: 1 }],
  ],
  async request => {
    const { whole } = await askBothWays({ model: deepseek(CHAT), ...request });
    holds('finishReason', ['stop', 'length'].includes(whole.finishReason), whole.finishReason);
  },
);

test('text: prompt tokens', async () => {
  const { usage } = await generateText({ ...BASE, model: deepseek(CHAT) });
  equal('inputTokens', usage.inputTokens, await countPromptTokens({ model: CHAT, messages: QUESTION }));
});

table(
  'reasoning',
  [
    ['by model', { model: deepseek(REASONER) }],
    ['by option', { model: deepseek(CHAT), providerOptions: THINK }],
    ['ended by a budget', { model: connect({ extra: BRIEF })(CHAT), providerOptions: THINK }],
    ['with an effort', { model: deepseek(REASONER), providerOptions: { deepseek: { reasoningEffort: 'high' } } }],
  ],
  async request => {
    const { whole, kinds } = await askBothWays(request, true);
    equal('first part', whole.content[0].type, 'reasoning');
    holds('parts of reasoning in the stream', kinds.includes('reasoning-delta'), kinds);
    holds('tokens of reasoning', whole.usage.outputTokenDetails.reasoningTokens > 0, whole.usage);
  },
);

test('reasoning: it ends before the text begins', async () => {
  const { whole, kinds } = await askBothWays({ model: connect({ extra: BRIEF })(CHAT), providerOptions: THINK }, true);
  equal('kinds of content', whole.content.map(part => part.type), ['reasoning', 'text']);
  holds('reasoning-end before text-delta', kinds.indexOf('reasoning-end') < kinds.indexOf('text-delta'), kinds);
});

test('reasoning: switched off', async () => {
  const { whole } = await askBothWays({ model: deepseek(REASONER), providerOptions: { deepseek: { thinking: { type: 'disabled' } } } });
  equal('reasoning', whole.reasoningText, undefined);
});

test('reasoning: an answer goes back into the history', async () => {
  const model = connect({ extra: BRIEF })(REASONER);
  const first = await generateText({ ...BASE, model });
  const messages = [...QUESTION, ...first.response.messages, { role: 'user', content: 'And a whale shark?' }];
  await askBothWays({ model, prompt: undefined, messages }, true);
});

// Calls of strict tools follow their schema, and the provider sends `strict` to /beta alone.
const set_lamp = { description: 'Switches the lamp.', strict: true, inputSchema: z.object({ on: z.boolean(), colour: z.enum(['red', '青']) }) };
const set_timer = { description: 'Starts the timer.', strict: true, inputSchema: z.object({ minutes: z.enum(['1', '5']) }) };
const TOOLS = { set_lamp: tool(set_lamp), set_timer: tool(set_timer) };

table(
  'tools',
  [
    ['required', { toolChoice: 'required' }],
    ['by name', { toolChoice: { type: 'tool', toolName: 'set_timer' } }],
    ['another seed', { toolChoice: 'required', model: connect({ path: '/beta', extra: { seed: 8 } })(CHAT) }],
  ],
  async request => {
    const { whole, kinds } = await askBothWays({ model: beta(CHAT), tools: TOOLS, maxOutputTokens: 500, ...request });
    equal('finishReason', whole.finishReason, 'tool-calls');
    holds('calls', whole.toolCalls.length > 0, whole.content);
    for (const call of whole.toolCalls) {
      holds('a call that is valid', !call.invalid, call);
      ({ set_lamp, set_timer })[call.toolName].inputSchema.parse(call.input);
    }
    if (request.toolChoice.toolName) equal('names', [...new Set(whole.toolCalls.map(call => call.toolName))], [request.toolChoice.toolName]);
    for (const kind of ['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call']) holds(`${kind} in the stream`, kinds.includes(kind), kinds);
  },
);

test('tools: several steps', async () => {
  const seen = [];
  const tools = { set_lamp: tool({ ...set_lamp, execute: input => (seen.push(input), 'done') }) };
  const request = { ...BASE, model: beta(CHAT), tools, maxOutputTokens: 500, stopWhen: stepCountIs(2), prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'auto' }) };
  const whole = await generateText(request);
  note('steps', whole.steps.map(step => content(step.content)));
  equal('number of steps', whole.steps.length, 2);
  holds('the function called', seen.length > 0 && seen.every(input => typeof input.on === 'boolean'), seen);
  const stream = streamText(request);
  await stream.consumeStream();
  equal('steps of the stream', (await stream.steps).map(step => step.text), whole.steps.map(step => step.text));
});

test('tools: not strict', async () => {
  const tools = { now: tool({ description: 'The time.', inputSchema: z.object({}) }) };
  const { whole } = await askBothWays({ model: deepseek(CHAT), tools, toolChoice: 'required', maxOutputTokens: 500 });
  equal('finishReason', whole.finishReason, 'tool-calls');
  equal('input', whole.toolCalls[0].input, {});
});

test('prefix on /beta', async () => {
  const messages = [...QUESTION, { role: 'assistant', content: 'A sperm whale dives', providerOptions: { deepseek: { prefix: true } } }];
  const { whole } = await askBothWays({ model: beta(CHAT), prompt: undefined, messages });
  holds('only what is new', !whole.text.startsWith('A sperm'), whole.text);
});

const Verdict = z.object({ verdict: z.enum(['yes', 'no', 'unsure']), certain: z.boolean() });
// The provider as it is made for servers that take schemas; the one for the hosted API asks for JSON and describes the schema in words.
const withSchemas = new DeepSeekChatLanguageModel(CHAT, {
  provider: 'deepseek.chat',
  url: ({ path }) => `${SERVER}/v1${path}`,
  headers: () => ({}),
  supportsStructuredOutputs: true,
});

test('objects: by a schema in the request', async () => {
  const request = { model: withSchemas, prompt: 'Is a whale a fish? Answer in JSON.', schema: Verdict, maxOutputTokens: 300, temperature: 0, maxRetries: 0 };
  const { object, finishReason } = await generateObject(request);
  note('object', object);
  equal('finishReason', finishReason, 'stop');
  Verdict.parse(object);
  const stream = streamObject(request);
  const partial = [];
  for await (const part of stream.partialObjectStream) partial.push(part);
  note('partial objects', partial);
  equal('object of the stream', await stream.object, object);
  equal('last of the partial objects', partial.at(-1), object);
});

test('objects: by a call', async () => {
  // What people do where there are no schemas: one tool that has to be called.
  const answer = tool({ description: 'Answers.', inputSchema: Verdict, strict: true });
  const { toolCalls } = await generateText({ ...BASE, model: beta(CHAT), tools: { answer }, toolChoice: 'required', maxOutputTokens: 500 });
  Verdict.parse(toolCalls[0].input);
});

test('objects: without a schema', async () => {
  const request = { model: deepseek(CHAT), prompt: 'Is a whale a fish?', output: 'no-schema', maxOutputTokens: 400, maxRetries: 0 };
  try {
    const { object } = await generateObject(request);
    note('object', object);
    holds('a JSON value', object !== undefined, object);
  } catch (error) {
    // A value may be as long as the model likes, and is no object before its end.
    equal('name of the error', error.name, 'AI_NoObjectGeneratedError');
    equal('finishReason', error.finishReason, 'length');
  }
});

test('logprobs', async () => {
  const options = { deepseek: { topLogprobs: 2 } };
  const { providerMetadata } = await generateText({ ...BASE, model: deepseek(CHAT), providerOptions: options, maxOutputTokens: 8 });
  const { content: entries } = providerMetadata.deepseek.logprobs;
  note('entries', entries);
  holds('two likeliest of each', entries.length > 0 && entries.every(entry => entry.top_logprobs.length === 2), entries);
});

table(
  'errors',
  [
    ['key', { model: connect({ server: KEYED_SERVER, apiKey: WRONG_KEY })(CHAT) }, 401, /Authentication Fails/],
    ['model', { model: deepseek('gpt-4o') }, 400, /Model Not Exist/],
    ['temperature', { model: deepseek(CHAT), temperature: 3 }, 400, /Invalid temperature value/],
    ['a forced call while thinking', { model: beta(REASONER), tools: TOOLS, toolChoice: 'required' }, 400, /not support this tool_choice/],
  ],
  async (request, status, message) => {
    request = { ...BASE, ...request };
    const error = await throws(APICallError, () => generateText(request));
    equal('status', error.statusCode, status);
    holds(`a message matching ${message}`, message.test(error.message), error.message);
    equal('worth another try', error.isRetryable, false);
    let streamed;
    await streamText({ ...request, onError: ({ error }) => (streamed = error) }).consumeStream();
    equal('message of the stream', streamed?.message, error.message);
  },
);

test('a key that is right', async () => {
  await askBothWays({ model: connect({ server: KEYED_SERVER, apiKey: KEY })(CHAT), maxOutputTokens: 4 });
});

test('abort: a stream that is aborted frees its request', async () => {
  await checkRunning(0);
  const abort = new AbortController();
  const stream = streamText({ ...BASE, model: connect({ extra: ENDLESS })(CHAT), abortSignal: abort.signal });
  let count = 0;
  const kinds = new Set();
  for await (const part of stream.fullStream) {
    kinds.add(part.type);
    if (++count === 5) {
      await checkRunning(1);
      abort.abort();
    }
  }
  holds('a part that tells of the abort', kinds.has('abort'), [...kinds]);
  await checkRunning(0);
});

await main();
