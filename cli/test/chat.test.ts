import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { becomes } from '../../test/becomes.ts';
import { ApiClient } from '../src/api/client.ts';
import { Conversation } from '../src/chat/conversation.ts';
import { runRepl } from '../src/chat/repl.ts';
import type { Behaviour, CompletionServer } from './completion-server.ts';
import { startCompletionServer } from './completion-server.ts';

const settings = { model: 'tiny', temperature: 0, topP: 1, maxTokens: 3, seed: null };
let behaviour: Behaviour;
/** Of the first requests, where they differ. */
let first: Behaviour[];
let server: CompletionServer;
let client: ApiClient;

beforeEach(async () => {
  behaviour = 'answer';
  first = [];
  server = await startCompletionServer((_, index) => first[index] ?? behaviour);
  client = new ApiClient({ url: server.url, apiKey: null, timeoutMs: 10_000 });
});
afterEach(async () => {
  client.close();
  await server.close();
});

describe('conversation', () => {
  it('streams an answer and remembers the turn', async () => {
    const conversation = new Conversation(client, settings, null);
    const pieces: string[] = [];
    const answer = await conversation.ask('one', (text) => pieces.push(text), new AbortController().signal);
    expect(pieces).toEqual(['t0 ', 't1 ', 't2 ']);
    expect(answer).toEqual({ text: 't0 t1 t2 ', finishReason: 'length', promptTokens: 1, outputTokens: 3 });
    expect(conversation.messages).toEqual([
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 't0 t1 t2 ' },
    ]);
  });

  it('keeps what had come of a cancelled answer', async () => {
    behaviour = 'stall';
    const conversation = new Conversation(client, settings, 'Be brief.');
    const cancel = new AbortController();
    const answer = await conversation.ask('one', () => cancel.abort(), cancel.signal);
    expect(answer).toMatchObject({ text: 't0 ', finishReason: 'cancelled' });
    expect(conversation.messages.map((m) => m.content)).toEqual(['Be brief.', 'one', 't0 ']);
    behaviour = 'answer';
    expect((await conversation.ask('two', () => {}, new AbortController().signal)).finishReason).toBe('length');
  });

  it('forgets a question that failed in the middle of its answer', async () => {
    behaviour = 'error-event';
    const conversation = new Conversation(client, settings, null);
    await expect(conversation.ask('one', () => {}, new AbortController().signal)).rejects.toThrow(/n0w1 was lost/);
    expect(conversation.messages).toEqual([]);
  });
});

describe('repl', () => {
  it('obeys its commands', async () => {
    const conversation = new Conversation(client, settings, null);
    const input = new PassThrough();
    const output = new PassThrough();
    input.end('/system Speak Latin.\none\n/history\n/nonsense\n/system\n/history\n/quit\nnever asked\n');
    const errors = new PassThrough();
    // In a pipe it is a question that nobody was asked.
    expect(await runRepl(conversation, { input, output, errors })).toBe(1);
    const turns = 'user: one\nassistant: t0 t1 t2 \n';
    expect(String(errors.read())).toBe(
      `system message set\nsystem: Speak Latin.\n${turns}unknown command /nonsense: a question may not begin with /\nno system message\n${turns}`,
    );
    expect(String(output.read())).toBe('t0 t1 t2 \n');
    expect(server.requests).toHaveLength(1);
  });

  it('keeps answers and failures apart', async () => {
    first = ['error-event'];
    const { input, output, errors } = terminal(false);
    input.end('one\ntwo\n');
    expect(await runRepl(new Conversation(client, settings, null), { input, output, errors })).toBe(1);
    expect(String(output.read())).toBe('t0 \nt0 t1 t2 \n');
    expect(String(errors.read())).toContain('n0w1 was lost');
  });

  it('ends when nobody answers any more, with its input left open', async () => {
    const { input, output, errors } = terminal(false);
    await server.close();
    input.write('one\n');
    await expect(runRepl(new Conversation(client, settings, null), { input, output, errors })).rejects.toThrow(/nothing answers at/);
    expect(input.listenerCount('data') + input.listenerCount('readable')).toBe(0);
  });

  it('goes on at a terminal, where the server may come back', async () => {
    const { input, output, errors } = terminal(true);
    await server.close();
    const conversation = new Conversation(client, settings, null);
    const chatting = runRepl(conversation, { input, output, errors });
    input.write('one\n');
    await becomes(() => errors.readableLength > 0);
    expect(String(errors.read())).toContain('nothing answers at');
    input.write('/history\n/nonsense\n/quit\n');
    expect(await chatting).toBe(1);
    expect(String(output.read())).toMatch(/nothing yet[\s\S]*unknown command \/nonsense\r?\n\/system TEXT/);
  });

  it('gives an answer in full whose question was the last, and prompts no more', async () => {
    behaviour = 'answer';
    const { input, output, errors } = terminal(true);
    const chatting = runRepl(new Conversation(client, settings, null), { input, output, errors });
    // With a Ctrl-D before it has an answer.
    input.write('one\n\x04');
    expect(await chatting).toBe(0);
    expect(String(output.read()).split('t0 t1 t2')[1]).not.toContain('you>');
  });
});

/** Streams of a person, or of a pipe. */
function terminal(isTTY: boolean) {
  const streams = { input: new PassThrough(), output: new PassThrough(), errors: new PassThrough() };
  for (const stream of Object.values(streams)) Object.assign(stream, { isTTY });
  return streams;
}
