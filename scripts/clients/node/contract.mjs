// What holds of every answer of the server, whichever client asks; the part of contract.py that the suites here need.

import { equal, holds, note } from './cases.mjs';

export const SERVER = process.env.CLIENTS_SERVER;
export const KEYED_SERVER = process.env.CLIENTS_KEYED_SERVER;
export const KEY = process.env.CLIENTS_KEY;
export const WRONG_KEY = 'sk-0123456789abcdef';
export const CHAT = 'deepseek-chat';
export const REASONER = 'deepseek-reasoner';
export const QUESTION = [{ role: 'user', content: 'How deep does a sperm whale dive?' }];
/** No token ends it before the last. */
export const ENDLESS = { max_tokens: 3000, min_tokens: 3000 };

export const WEATHER_PARAMETERS = {
  type: 'object',
  properties: {
    city: { type: 'string', enum: ['Paris', 'Reykjavík', '東京'] },
    unit: { type: 'string', enum: ['celsius', 'fahrenheit'] },
  },
  required: ['city', 'unit'],
  additionalProperties: false,
};
export const SWITCH_PARAMETERS = {
  type: 'object',
  properties: { on: { type: 'boolean' } },
  required: ['on'],
  additionalProperties: false,
};
export const VERDICT_SCHEMA = {
  type: 'object',
  properties: { verdict: { type: 'string', enum: ['yes', 'no', 'unsure'] }, certain: { type: 'boolean' } },
  required: ['verdict', 'certain'],
  additionalProperties: false,
};

/** Holds a value against the subset of JSON Schema that these schemas use. */
export function checkInstance(value, schema) {
  if (schema.enum) holds(`one of ${schema.enum}`, schema.enum.includes(value), value);
  else if (schema.type === 'object') {
    equal('keys', Object.keys(value).sort(), [...schema.required].sort());
    for (const [key, member] of Object.entries(value)) checkInstance(member, schema.properties[key]);
  } else equal('type', typeof value, schema.type);
}

export function checkUsage(usage, thinking) {
  note('usage', usage);
  equal('total_tokens', usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  equal('cache hits and misses together', usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, usage.prompt_tokens);
  equal('cached_tokens', usage.prompt_tokens_details.cached_tokens, usage.prompt_cache_hit_tokens);
  equal('cache hits in whole blocks of 64', usage.prompt_cache_hit_tokens % 64, 0);
  equal('reasoning tokens counted', usage.completion_tokens_details?.reasoning_tokens !== undefined, thinking);
}

/** How many tokens `/tokenize` makes of a chat request's prompt. */
export async function countPromptTokens({ model, messages, tools, tool_choice, thinking, response_format }) {
  const body = JSON.stringify({ model, messages, tools, tool_choice, thinking, response_format });
  const response = await fetch(`${SERVER}/tokenize`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  const answer = await response.json();
  note('answer of /tokenize', answer);
  return answer.count;
}

/** Waits until as many requests run as expected. */
export async function checkRunning(expected) {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const text = await (await fetch(`${SERVER}/metrics`)).text();
    const found = Number(text.match(/^cachalot_requests_running (\S+)$/m)[1]);
    if (found === expected) return;
    holds(`${expected} requests running`, performance.now() < deadline, found);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}
