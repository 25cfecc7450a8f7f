import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { ApiClient } from '../src/api/client.ts';
import { chatCommand } from '../src/commands/chat.ts';
import { readApiKey } from '../src/commands/server-options.ts';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

it('chat does not wait for the list of models as long as for an answer', async () => {
  const limits: number[] = [];
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => {
    limits.push(ms);
    return AbortSignal.abort();
  });
  await expect(chatCommand().parseAsync(['--url', 'http://127.0.0.1:9'], { from: 'user' })).rejects.toThrow(/no complete answer within/);
  expect(limits).toEqual([30_000]);
});

it('a key that no header can carry is refused before anything is sent', () => {
  const options = { url: 'http://127.0.0.1:9', timeoutMs: 1 };
  for (const apiKey of ['\ufffd', 'k\u00e9y', 'a\nb'])
    expect(() => new ApiClient({ ...options, apiKey })).toThrow(
      expect.objectContaining({ status: 2, message: expect.stringMatching(/printable ASCII/) }),
    );
  expect(new ApiClient({ ...options, apiKey: 'sk-1 ~' }).baseUrl).toBe('http://127.0.0.1:9');
});

it('a key of another service goes to no server that the user has not named', () => {
  vi.stubEnv('SWITCHYARD_API_KEY', undefined);
  vi.stubEnv('OPENAI_API_KEY', 'another');
  expect([readApiKey({}), readApiKey({ url: 'https://api.example.com' })]).toEqual([null, 'another']);
  vi.stubEnv('SWITCHYARD_API_KEY', 'ours');
  expect([readApiKey({}), readApiKey({ url: 'https://api.example.com' })]).toEqual(['ours', 'ours']);
});

it('reads a file of keys once: a pipe has its text but once, and a command may talk to several servers', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-keys-'));
  const apiKeyFile = path.join(folder, 'keys');
  writeFileSync(apiKeyFile, 'first tenant\n', { mode: 0o600 });
  const read = () => readApiKey({ apiKeyFile });
  expect(read()).toBe('first');
  rmSync(folder, { recursive: true });
  expect(read()).toBe('first');
});
