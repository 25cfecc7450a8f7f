import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ApiClient } from '../src/api/client.ts';
import { Conversation } from '../src/chat/conversation.ts';
import { runRepl } from '../src/chat/repl.ts';
import type { Behaviour, CompletionServer } from './completion-server.ts';
import { startCompletionServer } from './completion-server.ts';

const settings = { model: 'tiny', temperature: 0, topP: 1, maxTokens: 3, seed: null };
let behaviour: Behaviour;
let server: CompletionServer;
let client: ApiClient;

beforeEach(async () => {
  behaviour = 'answer';
  server = await startCompletionServer(() => behaviour);
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
    expect(await runRepl(conversation, { input, output })).toBe(0);
    const text = String(output.read());
    expect(text).toMatch(
      /^system message set\nt0 t1 t2 \nsystem: Speak Latin\.\nuser: one\nassistant: t0 t1 t2 \nunknown command \/nonsense\n/,
    );
    expect(text.endsWith('no system message\nuser: one\nassistant: t0 t1 t2 \n')).toBe(true);
    expect(server.requests).toHaveLength(1);
  });
});
