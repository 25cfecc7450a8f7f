// One request of a soak run: asked at once or streamed, heard to its end or hung up on, and told in a form that does not depend on how it was asked.
import http from 'node:http';

/** Nothing takes so long: a row's deadline is a quarter of it. */
const answerMsMax = 120_000;

/**
 * @param how `stream`; `hangUpAfter`: pieces of a stream after which nobody listens any more, or null
 * @returns {state: 'whole', answer} | {state: 'failed', code, message, said} | {state: 'hung up', said} | {state: 'broken', message, said} where the answer did not
 *   come to any end that an answer may have, in time; `said`: the text of each choice so far
 */
export async function ask(url, { path, body }, { stream, hangUpAfter = null }) {
  const asked = { ...body, ...(stream ? { stream: true, stream_options: { include_usage: true } } : {}) };
  const choices = [];
  try {
    const response = await post(url + path, asked);
    if (response.statusCode !== 200) return { state: 'failed', ...errorOf(await textOf(response)), said: [] };
    return stream ? await hear(response, choices, hangUpAfter) : { state: 'whole', answer: normal(JSON.parse(await textOf(response))) };
  } catch (error) {
    return { state: 'broken', message: error.message, said: said(choices) };
  }
}

/** A stream to its end, or until it is hung up on. */
async function hear(response, choices, hangUpAfter) {
  let usage = null;
  let pieces = 0;
  for await (const event of events(response)) {
    if (event.error !== undefined) return { state: 'failed', code: event.error.code, message: event.error.message, said: said(choices) };
    for (const piece of event.choices) append(choices, piece);
    usage = event.usage ?? usage;
    if (pieces++ === hangUpAfter) {
      response.destroy();
      return { state: 'hung up', said: said(choices) };
    }
  }
  return { state: 'whole', answer: normal({ choices, usage }) };
}

/** A connection of its own, which ends with the answer: what is kept open would look like a leak. */
function post(url, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      url,
      { method: 'POST', headers: { 'content-type': 'application/json' }, agent: false, signal: AbortSignal.timeout(answerMsMax) },
      resolve,
    );
    request.on('error', reject);
    request.end(JSON.stringify(body));
  });
}

async function textOf(response) {
  const parts = [];
  for await (const part of response) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

function errorOf(text) {
  const { code, message } = JSON.parse(text).error;
  return { code, message };
}

/** Data of server-sent events up to `[DONE]`; a stream that ends without it is an error. */
async function* events(response) {
  let rest = '';
  response.setEncoding('utf8');
  for await (const part of response) {
    const lines = (rest + part).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ')) continue;
      if (line === 'data: [DONE]') return;
      yield JSON.parse(line.slice(6));
    }
  }
  throw new Error('a stream ended without [DONE]');
}

function append(choices, { index, text, delta, logprobs, finish_reason: finishReason }) {
  choices[index] ??= { index, text: '', logprobs: null, finish_reason: null };
  const choice = choices[index];
  choice.text += text ?? delta?.content ?? '';
  if (finishReason) choice.finish_reason = finishReason;
  if (!logprobs) return;
  choice.logprobs ??= {};
  for (const [column, values] of Object.entries(logprobs))
    if (Array.isArray(values)) choice.logprobs[column] = [...(choice.logprobs[column] ?? []), ...values];
}

const said = (choices) => Array.from(choices, (choice) => choice?.text ?? '');

/** What two answers to one question have in common: choices in order, without identifiers, times, and what was cached. */
function normal({ choices, usage }) {
  return {
    choices: choices
      .map(({ index, text, message, logprobs, finish_reason: finishReason }) => ({
        index,
        text: text ?? message.content ?? '',
        logprobs: logprobs === null ? null : Object.fromEntries(Object.entries(logprobs).filter(([, values]) => Array.isArray(values))),
        finishReason,
      }))
      .sort((a, b) => a.index - b.index),
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    accepted: usage.completion_tokens_details?.accepted_prediction_tokens ?? null,
  };
}
