import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { limits, SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/** What a checkpoint's folder says about text, parsed and nothing more. */
export interface TokenizerFolder {
  /** Path of tokenizer.json. */
  file: string;
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
  const file = path.join(dir, 'tokenizer.json');
  const json = readJson(file, limits.tokenizerBytesMax);
  if (json === null) throw new SwitchyardError('bad_checkpoint', `${file}: no such file`);
  const configFile = path.join(dir, 'tokenizer_config.json');
  const config = readJson(configFile, limits.configBytesMax) ?? {};
  if (!isObject(config)) throw new SwitchyardError('bad_checkpoint', `${configFile} is not an object`);
  const { chat_template: template = null } = config;
  const inConfig = Array.isArray(template) ? templateNamed(template, 'default') : template;
  const chatTemplate = readText(path.join(dir, 'chat_template.jinja'), limits.configBytesMax) ?? inConfig;
  const toolTemplate =
    readText(path.join(dir, 'additional_chat_templates', 'tool_use.jinja'), limits.configBytesMax) ??
    (Array.isArray(template) ? templateNamed(template, 'tool_use') : null);
  for (const source of [chatTemplate, toolTemplate])
    if (source !== null && typeof source !== 'string')
      throw new SwitchyardError(
        'bad_checkpoint',
        `${configFile}: chat_template must be a text, or a list of objects with name and template`,
      );
  return {
    file,
    tokenizer: checkedTokenizer(file, json),
    config,
    chatTemplate: chatTemplate as string | null,
    toolTemplate: toolTemplate as string | null,
  };
}

function templateNamed(templates: unknown[], name: string): unknown {
  return templates.filter(isObject).find((entry) => entry.name === name)?.template ?? null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The longest published ones have some tens; every beginning and end of each is remembered to keep control tokens out of messages. */
const addedTokenCharsMax = 1024;

/** Steps between text and ids that a tokenizer may do without. */
const steps = ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'];

/** As far as this project reads it itself. What is left out means what it means to the tokenizers library: no step, an ordinary token. */
function checkedTokenizer(file: string, json: unknown): TokenizerJson {
  const refusal = (what: string) => new SwitchyardError('bad_checkpoint', `${file}: ${what}`);
  if (!isObject(json) || !isObject(json.model) || !json.model.vocab) throw refusal('model.vocab is missing');
  if (!isVocabulary(json.model.vocab))
    throw refusal(`model.vocab must give each piece a whole number below ${bounds.tokenIdsMax}, or list pieces with their scores`);
  for (const step of steps) if (!isStep(json[step] ?? null)) throw refusal(`${step} must be null or an object with a type`);
  const added = json.added_tokens ?? [];
  if (!Array.isArray(added)) throw refusal('added_tokens must be a list');
  const addedTokens = added.map((token: unknown, i) => {
    const flags = { special: false, normalized: false, ...(isObject(token) ? token : {}) } as Record<string, unknown>;
    if (isId(flags.id) && typeof flags.content === 'string' && isFlag(flags.special) && isFlag(flags.normalized)) {
      if (flags.content.length <= addedTokenCharsMax) return flags;
      throw refusal(`added_tokens[${i}] has ${flags.content.length} characters: must have at most ${addedTokenCharsMax}`);
    }
    throw refusal(
      `added_tokens[${i}] must have a whole number below ${bounds.tokenIdsMax} as id, a text as content, and true or false for special and normalized`,
    );
  });
  const none = Object.fromEntries(steps.map((step) => [step, null]));
  return { ...none, ...json, added_tokens: addedTokens } as unknown as TokenizerJson;
}

function isVocabulary(vocab: unknown): boolean {
  if (Array.isArray(vocab))
    return vocab.every((entry) => Array.isArray(entry) && typeof entry[0] === 'string' && typeof entry[1] === 'number');
  return isObject(vocab) && Object.values(vocab).every(isId);
}

/** Steps may be made of steps: those of a decoder are read here, the others by the tokenizers library. */
function isStep(step: unknown): boolean {
  if (step === null) return true;
  if (!isObject(step) || typeof step.type !== 'string') return false;
  return step.decoders === undefined || (Array.isArray(step.decoders) && step.decoders.every(isObject));
}

function isId(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < bounds.tokenIdsMax;
}

function isFlag(value: unknown): boolean {
  return typeof value === 'boolean';
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
