import { readSecretText } from '@switchyard/proto';
import type { Command } from 'commander';
import { ApiClient } from '../api/client.ts';
import { CommandFailure, exitStatus } from '../failure.ts';

export interface ServerOptions {
  url: string;
  apiKeyFile?: string;
}

export const defaultUrl = 'http://127.0.0.1:8000';

/** The options of every command that talks to a running server. */
export function withServerOptions(command: Command, urlDefault: string | null = defaultUrl): Command {
  return command
    .option('--url <url>', 'server to talk to, any that speaks the OpenAI API', urlDefault ?? undefined)
    .option('--api-key-file <file>', 'file whose first key is sent (else SWITCHYARD_API_KEY, OPENAI_API_KEY)');
}

/** A key never comes from a flag: command lines are readable by other users. */
export function readApiKey(options: { apiKeyFile?: string }): string | null {
  if (options.apiKeyFile === undefined) return process.env.SWITCHYARD_API_KEY ?? process.env.OPENAI_API_KEY ?? null;
  return firstKey(options.apiKeyFile);
}

/** Of the lines that `up --api-key-file` takes, so that one file serves both ends: "KEY" or "KEY TENANT", and comments. */
export function firstKey(file: string): string {
  const keys = readSecret(file, '--api-key-file')
    .split('\n')
    .map((line) => line.trim().split(/\s+/)[0]);
  const key = keys.find((word) => word !== '' && !word.startsWith('#'));
  if (key === undefined) throw new CommandFailure(`--api-key-file ${file}: has no key`, { status: exitStatus.usage });
  return key;
}

/** @param option that named the file */
export function readSecret(file: string, option: string): string {
  try {
    return readSecretText(file, option).trim();
  } catch (error) {
    throw new CommandFailure((error as Error).message, { status: exitStatus.usage, cause: error });
  }
}

export function connect(options: ServerOptions, timeoutMs: number): ApiClient {
  return new ApiClient({ url: options.url, apiKey: readApiKey(options), timeoutMs });
}
