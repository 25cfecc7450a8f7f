import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { limits, SwitchyardError } from '@switchyard/proto';

/** What a checkpoint's folder says about text, parsed and nothing more. */
export interface TokenizerFolder {
  tokenizer: TokenizerJson;
  config: TokenizerConfig;
  /** Jinja source of the chat template, and of the one for conversations with tools where the folder has two. */
  chatTemplate: string | null;
  toolTemplate: string | null;
}

export interface TokenizerJson {
  added_tokens: AddedTokenJson[];
  model: { vocab: Record<string, number> | [string, number][] } & Record<string, unknown>;
  decoder: DecoderJson | null;
  [key: string]: unknown;
}

interface AddedTokenJson {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
  [key: string]: unknown;
}

export interface DecoderJson {
  type: string;
  decoders?: DecoderJson[];
  [key: string]: unknown;
}

export interface TokenizerConfig {
  chat_template?: string | { name: string; template: string }[];
  [key: string]: unknown;
}

/** @throws SwitchyardError `bad_checkpoint` naming the file. */
export function readTokenizerFolder(dir: string): TokenizerFolder {
  const tokenizer = readJson(path.join(dir, 'tokenizer.json'), limits.tokenizerBytesMax) as TokenizerJson | null;
  if (tokenizer === null) throw new SwitchyardError('bad_checkpoint', `${path.join(dir, 'tokenizer.json')}: no such file`);
  if (typeof tokenizer.model !== 'object' || tokenizer.model === null || !tokenizer.model.vocab)
    throw new SwitchyardError('bad_checkpoint', `${path.join(dir, 'tokenizer.json')}: model.vocab is missing`);
  tokenizer.added_tokens ??= [];
  const config = (readJson(path.join(dir, 'tokenizer_config.json'), limits.configBytesMax) ?? {}) as TokenizerConfig;
  const named = Array.isArray(config.chat_template) ? config.chat_template : [];
  const inConfig = typeof config.chat_template === 'string' ? config.chat_template : templateNamed(named, 'default');
  return {
    tokenizer,
    config,
    chatTemplate: readText(path.join(dir, 'chat_template.jinja'), limits.configBytesMax) ?? inConfig,
    toolTemplate: templateNamed(named, 'tool_use'),
  };
}

function templateNamed(templates: { name: string; template: string }[], name: string): string | null {
  return templates.find((entry) => entry.name === name)?.template ?? null;
}

/** Null when there is no such file. */
export function readJson(file: string, bytesMax: number): unknown {
  const text = readText(file, bytesMax);
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SwitchyardError('bad_checkpoint', `${file} is not JSON: ${(error as Error).message}`, { cause: error });
  }
}

function readText(file: string, bytesMax: number): string | null {
  const found = statSync(file, { throwIfNoEntry: false });
  if (found === undefined || !found.isFile()) return null;
  if (found.size > bytesMax) throw new SwitchyardError('bad_checkpoint', `${file} has ${found.size} bytes; the limit is ${bytesMax}`);
  return readFileSync(file, 'utf8');
}
