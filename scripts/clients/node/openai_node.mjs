// The `openai` package for JavaScript: chat, its stream helper, thinking, tools, JSON, completions, errors.

import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { equal, holds, main, note, table, test, throws } from './cases.mjs';
import {
  CHAT,
  checkInstance,
  checkRunning,
  checkUsage,
  countPromptTokens,
  ENDLESS,
  KEY,
  KEYED_SERVER,
  QUESTION,
  REASONER,
  SERVER,
  SWITCH_PARAMETERS,
  VERDICT_SCHEMA,
  WEATHER_PARAMETERS,
  WRONG_KEY,
} from './contract.mjs';

const connect = ({ path = '/v1', server = SERVER, apiKey = 'none' } = {}) =>
  new OpenAI({ baseURL: `${server}${path}`, apiKey, maxRetries: 0, timeout: 60_000 });
const client = connect();
const beta = connect({ path: '/beta' });

const WEATHER = { type: 'function', function: { name: 'get_weather', parameters: WEATHER_PARAMETERS, strict: true } };
const SWITCH = { type: 'function', function: { name: 'set_lamp', parameters: SWITCH_PARAMETERS, strict: true } };
const PARAMETERS = { get_weather: WEATHER_PARAMETERS, set_lamp: SWITCH_PARAMETERS };

/** The message that the chunks of a stream make. */
function gather(chunks) {
  const message = { content: '', reasoning: '', calls: [], finishReason: null };
  chunks.forEach((chunk, number) => {
    equal('choices in each chunk', chunk.choices.length, 1);
    const [{ delta, finish_reason: reason }] = chunk.choices;
    equal('role in the first chunk alone', delta.role, number === 0 ? 'assistant' : undefined);
    equal('finish_reason in the last chunk alone', reason !== null, number === chunks.length - 1);
    message.content += delta.content ?? '';
    message.reasoning += delta.reasoning_content ?? '';
    for (const call of delta.tool_calls ?? []) {
      if (call.id) message.calls.push([call.function.name, '']);
      message.calls[call.index][1] += call.function.arguments;
    }
    message.finishReason = reason;
  });
  return message;
}

async function askBothWays(request, thinking = false, via = client) {
  request = { model: CHAT, messages: QUESTION, seed: 7, max_tokens: 160, ...request };
  note('request', request);
  const whole = await via.chat.completions.create(request);
  note('answer', whole);
  equal('object', whole.object, 'chat.completion');
  checkUsage(whole.usage, thinking);
  equal('prompt_tokens', whole.usage.prompt_tokens, await countPromptTokens(request));
  const [{ message, finish_reason: finishReason }] = whole.choices;
  equal('reasoning_content present', typeof message.reasoning_content === 'string', thinking);
  const chunks = [];
  for await (const chunk of await via.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) {
    chunks.push(chunk);
  }
  note('chunks', chunks);
  const calls = (message.tool_calls ?? []).map(call => [call.function.name, call.function.arguments]);
  const expected = { content: message.content, reasoning: message.reasoning_content ?? '', calls, finishReason };
  equal('message of the stream', gather(chunks), expected);
  checkUsage(chunks.at(-1).usage, thinking);
  equal('completion_tokens of the stream', chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
  return whole;
}

test('models', async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  holds('both aliases listed', names.includes(CHAT) && names.includes(REASONER), names);
});

table(
  'chat',
  [
    ['one message', {}],
    ['system and history', { messages: [{ role: 'system', content: 'You know whales.' }, { role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello!' }, ...QUESTION] }],
    ['developer', { messages: [{ role: 'developer', content: 'Be brief.' }, ...QUESTION] }],
    ['parts of text', { messages: [{ role: 'user', content: [{ type: 'text', text: 'Hello 海豚 🐬' }] }] }],
    ['greedy', { temperature: 0, max_tokens: 40 }],
    ['max_completion_tokens', { max_completion_tokens: 5, max_tokens: undefined }],
    ['stop', { stop: ['e', '\n'] }],
  ],
  request => askBothWays(request),
);

table(
  'thinking',
  [
    ['by model', { model: REASONER }],
    ['by a member that the types do not know', { thinking: { type: 'enabled' } }],
    ['ended by a budget', { thinking: { type: 'enabled' }, thinking_token_budget: 10, min_tokens: 30 }],
    ['with an effort', { model: REASONER, reasoning_effort: 'high' }],
    ['history with reasoning', { model: REASONER, messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello!', reasoning_content: 'A greeting.' }, ...QUESTION] }],
  ],
  async request => {
    const answer = await askBothWays(request, true);
    if (request.thinking_token_budget) holds('content after the reasoning', answer.choices[0].message.content, answer);
  },
);

table(
  'tools',
  [
    ['required', { tools: [WEATHER, SWITCH], tool_choice: 'required' }],
    ['by name', { tools: [WEATHER, SWITCH], tool_choice: { type: 'function', function: { name: 'set_lamp' } } }],
    ['another seed', { tools: [WEATHER, SWITCH], tool_choice: 'required', seed: 8 }],
  ],
  async request => {
    const answer = await askBothWays({ max_tokens: 500, ...request });
    equal('finish_reason', answer.choices[0].finish_reason, 'tool_calls');
    for (const { function: called, id } of answer.choices[0].message.tool_calls) {
      holds('an id', /^call_\d\d_\w{20}$/.test(id), id);
      checkInstance(JSON.parse(called.arguments), PARAMETERS[called.name]);
    }
  },
);

test('tools: call, result, answer', async () => {
  const request = { model: CHAT, messages: QUESTION, seed: 7, max_tokens: 500, tools: [WEATHER, SWITCH] };
  const { message } = (await client.chat.completions.create({ ...request, tool_choice: 'required' })).choices[0];
  note('message', message);
  const results = message.tool_calls.map(call => ({ role: 'tool', tool_call_id: call.id, content: '12 °C' }));
  await askBothWays({ ...request, messages: [...QUESTION, message, ...results] });
});

test('tools: the runner calls the function', async () => {
  const seen = [];
  const tool = {
    type: 'function',
    function: { name: 'set_lamp', description: 'Switches the lamp.', parameters: SWITCH_PARAMETERS, strict: true, parse: JSON.parse, function: ({ on }) => (seen.push(on), 'done') },
  };
  const choice = { type: 'function', function: { name: 'set_lamp' } };
  const runner = client.chat.completions.runTools({ model: CHAT, messages: QUESTION, seed: 7, max_tokens: 500, tools: [tool], tool_choice: choice });
  await runner.done();
  note('messages', runner.messages);
  holds('the function called with a boolean', seen.length > 0 && typeof seen[0] === 'boolean', seen);
});

const ASK_JSON = [{ role: 'user', content: 'Is a whale a fish? Answer in JSON.' }];
const Verdict = z.object({ verdict: z.enum(['yes', 'no', 'unsure']), certain: z.boolean() });

test('JSON: an object', async () => {
  const answer = await askBothWays({ messages: ASK_JSON, response_format: { type: 'json_object' }, max_tokens: 400 });
  const [{ message, finish_reason: finishReason }] = answer.choices;
  if (finishReason === 'stop') JSON.parse(message.content);
});

test('JSON: a schema', async () => {
  const format = { type: 'json_schema', json_schema: { name: 'verdict', schema: VERDICT_SCHEMA, strict: true } };
  const answer = await askBothWays({ messages: ASK_JSON, response_format: format });
  checkInstance(JSON.parse(answer.choices[0].message.content), VERDICT_SCHEMA);
});

test('JSON: the parse helper', async () => {
  const request = { model: CHAT, messages: ASK_JSON, seed: 7, max_tokens: 300, response_format: zodResponseFormat(Verdict, 'verdict') };
  note('request', request);
  const { parsed } = (await client.chat.completions.parse(request)).choices[0].message;
  note('parsed', parsed);
  Verdict.parse(parsed);
  const streamed = await client.chat.completions.stream(request).finalChatCompletion();
  equal('what the stream parsed to', streamed.choices[0].message.parsed, parsed);
});

test('chat: the stream helper', async () => {
  const request = { model: CHAT, messages: QUESTION, seed: 7, max_tokens: 60 };
  const stream = client.chat.completions.stream(request);
  let text = '';
  stream.on('content', delta => (text += delta));
  const final = await stream.finalContent();
  equal('text of the final message', final, text);
  const whole = await client.chat.completions.create(request);
  equal('text of the whole answer', whole.choices[0].message.content, text);
});

test('logprobs', async () => {
  const request = { model: CHAT, messages: QUESTION, seed: 7, max_tokens: 12, logprobs: true, top_logprobs: 3 };
  const [{ logprobs, message }] = (await client.chat.completions.create(request)).choices;
  note('logprobs', logprobs);
  const bytes = Buffer.from(logprobs.content.flatMap(entry => entry.bytes));
  holds('tokens that make the text', bytes.toString().startsWith(message.content), message);
  holds('three likeliest of each', logprobs.content.every(entry => entry.top_logprobs.length === 3), logprobs);
});

table(
  'completions',
  [
    ['text', client, { prompt: 'Once upon a time' }],
    ['fill in the middle', beta, { prompt: 'def fib(n):\n', suffix: '\n    return a\n' }],
  ],
  async (via, request) => {
    request = { model: CHAT, seed: 7, max_tokens: 24, ...request };
    note('request', request);
    const whole = await via.completions.create(request);
    let text = '';
    for await (const chunk of await via.completions.create({ ...request, stream: true })) text += chunk.choices[0].text;
    equal('text of the stream', text, whole.choices[0].text);
  },
);

test('prefix', async () => {
  const messages = [...QUESTION, { role: 'assistant', content: 'A sperm whale dives', prefix: true }];
  const answer = await askBothWays({ messages, max_tokens: 20 }, false, beta);
  holds('only what is new', !answer.choices[0].message.content.startsWith('A sperm'), answer);
});

table(
  'errors',
  [
    ['model', { model: 'gpt-4o' }, /Model Not Exist/],
    ['temperature', { temperature: 3 }, /Invalid temperature value, the valid range of temperature is \[0, 2\]/],
    ['JSON without the word', { response_format: { type: 'json_object' } }, /must contain the word 'json'/],
    ['a forced call while thinking', { model: REASONER, tools: [SWITCH], tool_choice: 'required' }, /not support this tool_choice/],
    ['context', { messages: [{ role: 'user', content: 'deep '.repeat(20_000) }] }, /maximum context length is/],
  ],
  async (request, message) => {
    request = { model: CHAT, messages: QUESTION, ...request };
    for (const stream of [false, true]) {
      const error = await throws(OpenAI.BadRequestError, () => client.chat.completions.create({ ...request, stream }));
      holds(`a message matching ${message}`, message.test(error.error.message), error.error);
      equal('type', error.type, 'invalid_request_error');
      holds('a request id', error.requestID, [...error.headers]);
    }
  },
);

test('errors: key', async () => {
  const wrong = connect({ server: KEYED_SERVER, apiKey: WRONG_KEY });
  const error = await throws(OpenAI.AuthenticationError, () => wrong.chat.completions.create({ model: CHAT, messages: QUESTION }));
  holds('a message with the end of the key', /\*\*\*\*cdef is invalid/.test(error.error.message), error.error);
  const right = connect({ server: KEYED_SERVER, apiKey: KEY });
  equal('choices', (await right.chat.completions.create({ model: CHAT, messages: QUESTION, max_tokens: 2 })).choices.length, 1);
});

test('abort: a stream that is aborted frees its request', async () => {
  await checkRunning(0);
  const stream = await client.chat.completions.create({ model: CHAT, messages: QUESTION, stream: true, ...ENDLESS });
  let count = 0;
  for await (const _ of stream) {
    if (++count === 3) {
      await checkRunning(1);
      stream.controller.abort();
    }
  }
  await checkRunning(0);
});

test('twelve at once', async () => {
  const ask = async seed => (await client.chat.completions.create({ model: CHAT, messages: QUESTION, seed, max_tokens: 40 })).choices[0].message.content;
  const together = await Promise.all([...Array(12).keys()].map(ask));
  equal('texts alone and in company', together[0], await ask(0));
});

await main();
