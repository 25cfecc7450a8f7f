import { readSecretText } from '@switchyard/proto';
import type { Command } from 'commander';
import { ApiClient } from '../api/client.ts';
import { CommandFailure, exitStatus } from '../failure.ts';

export interface ServerOptions {
  /** As the user gave it; none: `defaultUrl`, or a server that the command starts. */
  url?: string;
  apiKeyFile?: string;
}

export const defaultUrl = 'http://127.0.0.1:8000';

/** The options of every command that talks to a running server. @param otherwise what is done where no --url is given */
export function withServerOptions(command: Command, otherwise = 'one is started'): Command {
  return command
    .option('--url <url>', `server to talk to, any that speaks the OpenAI API (default: ${otherwise})`)
    .option('--api-key-file <file>', 'file whose first key is sent (else SWITCHYARD_API_KEY, or to a --url OPENAI_API_KEY)');
}

/** A key never comes from a flag: command lines are readable by other users. That of another service goes nowhere that the user has not named. */
export function readApiKey({ url, apiKeyFile }: ServerOptions): string | null {
  if (apiKeyFile !== undefined) return firstKey(apiKeyFile);
  const { SWITCHYARD_API_KEY: ours, OPENAI_API_KEY: another } = process.env;
  return ours ?? (url === undefined ? null : (another ?? null));
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

/** By file. A shell's `<(…)` can be read but once, and a command may talk to several servers. */
const secrets = new Map<string, string>();

/** @param option that named the file */
export function readSecret(file: string, option: string): string {
  try {
    const secret = secrets.get(file) ?? readSecretText(file, option).trim();
    secrets.set(file, secret);
    return secret;
  } catch (error) {
    throw new CommandFailure((error as Error).message, { status: exitStatus.usage, cause: error });
  }
}

export function connect(options: ServerOptions, timeoutMs: number): ApiClient {
  return new ApiClient({ url: options.url ?? defaultUrl, apiKey: readApiKey(options), timeoutMs });
}
