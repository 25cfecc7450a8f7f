// The load client, a program of its own so that it can run on a host of the bed: a line of JSON in, a line of JSON out,
// with the same `id`; several may be under way.
//
//   {"id", "batch": [request, …]}   sends all requests at once, streamed; answers {"completions": [what each saw, …]} when all have ended
//   {"id", "tokenize": TEXT}        answers {"tokens": [...]} by the server's own tokenizer
//
// A request is {prompt, maxTokens, domain, replaySequence, wantIds}; null or absent for what is not wanted. Times are milliseconds of one clock.
import http from 'node:http';
import { createInterface } from 'node:readline';

const [url, model] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY, noDelay: true });

function post(path, body, headers, onResponse) {
  const text = JSON.stringify(body);
  const request = http.request(new URL(path, url), {
    method: 'POST',
    agent,
    headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...headers },
  });
  request.on('response', onResponse);
  request.end(text);
  return request;
}

/** Streams one completion. A chunk may carry several tokens: `tokensBy[i]` were there at `chunkMs[i]`. Failures are part of what was seen. */
function complete({ prompt, maxTokens, domain = null, replaySequence = null, wantIds = false }) {
  const seen = {
    startMs: performance.now(),
    chunkMs: [],
    tokensBy: [],
    endMs: 0,
    promptTokens: 0,
    home: null,
    ids: [],
    usage: null,
    error: null,
  };
  const body = {
    ...{ model, prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, stream: true },
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...(replaySequence === null ? {} : { replay_sequence: replaySequence }),
    ...(wantIds ? { return_token_ids: true } : {}),
  };
  return new Promise((resolve) => {
    const end = (error) => {
      seen.endMs = performance.now();
      seen.error ??= error;
      resolve(seen);
    };
    const request = post('/v1/completions', body, domain === null ? {} : { 'x-switchyard-domain': domain }, (response) => {
      seen.home = /^[^;,]+/.exec(response.headers['x-switchyard-home'] ?? '')?.[0] ?? null;
      let rest = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => {
        const atMs = performance.now();
        const lines = (rest + chunk).split('\n');
        rest = lines.pop();
        for (const line of lines) if (line.startsWith('data: {')) note(seen, JSON.parse(line.slice(6)), atMs);
        if (response.statusCode !== 200) seen.error ??= `status ${response.statusCode}: ${chunk.slice(0, 300)}`;
      });
      response.on('end', () =>
        end(seen.tokensBy.at(-1) === maxTokens ? null : `asked for ${maxTokens} tokens, got ${seen.tokensBy.at(-1)}`),
      );
      response.on('error', (error) => end(error.message));
    });
    request.on('error', (error) => end(error.message));
  });
}

function note(seen, chunk, atMs) {
  if (chunk.error) seen.error ??= chunk.error.message;
  seen.ids.push(...(chunk.choices?.[0]?.token_ids ?? []));
  const { usage } = chunk;
  if (!usage) return;
  seen.promptTokens = usage.prompt_tokens;
  seen.usage = usage;
  if (usage.completion_tokens === (seen.tokensBy.at(-1) ?? 0)) return;
  seen.chunkMs.push(atMs);
  seen.tokensBy.push(usage.completion_tokens);
}

function tokenize(text) {
  return new Promise((resolve, reject) => {
    const request = post('/tokenize', { model, prompt: text, add_special_tokens: false }, {}, async (response) => {
      let body = '';
      for await (const chunk of response) body += chunk;
      resolve(JSON.parse(body).tokens);
    });
    request.on('error', reject);
  });
}

async function answer(job) {
  const answered = job.batch ? { completions: await Promise.all(job.batch.map(complete)) } : { tokens: await tokenize(job.tokenize) };
  process.stdout.write(`${JSON.stringify({ id: job.id, ...answered })}\n`);
}

createInterface({ input: process.stdin })
  .on('line', (line) => void answer(JSON.parse(line)))
  .on('close', () => process.exit(0));
