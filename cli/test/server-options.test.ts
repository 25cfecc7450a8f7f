import { afterEach, expect, it, vi } from 'vitest';
import { readApiKey } from '../src/commands/server-options.ts';

afterEach(() => void vi.unstubAllEnvs());

it('a key of another service goes to no server that the user has not named', () => {
  vi.stubEnv('SWITCHYARD_API_KEY', undefined);
  vi.stubEnv('OPENAI_API_KEY', 'another');
  expect([readApiKey({}), readApiKey({ url: 'https://api.example.com' })]).toEqual([null, 'another']);
  vi.stubEnv('SWITCHYARD_API_KEY', 'ours');
  expect([readApiKey({}), readApiKey({ url: 'https://api.example.com' })]).toEqual(['ours', 'ours']);
});
