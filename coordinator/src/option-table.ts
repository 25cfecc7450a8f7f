import { SwitchyardError } from '@switchyard/proto';
import type { z } from 'zod';

/** One option: its flag, environment name, default, help and documentation all come from here and from its key in the table. */
export interface Option<T> {
  schema: z.ZodType<T>;
  /** null: the option must be given. */
  fallback: T | null;
  /** What stands for the value in help, e.g. DIR; null for a switch. */
  value: string | null;
  help: string;
}

type OptionTable = Record<string, Option<never> | Option<unknown>>;
export type Values<Table> = { readonly [K in keyof Table]: Table[K] extends { schema: z.ZodType<infer T> } ? T : never };

export function option<T>(schema: z.ZodType<T>, fallback: NoInfer<T> | null, value: string | null, help: string): Option<T> {
  return { schema, fallback, value, help };
}

export function flagOf(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

export function environmentNameOf(prefix: string, key: string): string {
  return `${prefix}${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/**
 * Reads flags, then the environment, then defaults.
 *
 * @param prefix of environment names; a variable with it that names no option is an error, like an unknown flag
 * @throws SwitchyardError `invalid_request` whose message begins with the option's own name
 */
export function readOptions<Table extends OptionTable>(
  table: Table,
  prefix: string,
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Values<Table> {
  const given = new Map<string, { name: string; text: string }>();
  const keyOfName = new Map(Object.keys(table).map((key) => [environmentNameOf(prefix, key), key]));
  for (const [name, text] of Object.entries(environment)) {
    if (!name.startsWith(prefix) || text === undefined) continue;
    const key = keyOfName.get(name);
    if (key === undefined) throw invalid(name, `is no option; there are ${[...keyOfName.keys()].join(', ')}`, name);
    given.set(key, { name, text });
  }
  for (const [key, entry] of readFlags(table, args)) given.set(key, entry);
  const values: Record<string, unknown> = {};
  for (const [key, entry] of given) {
    const { schema, value } = table[key];
    const parsed = schema.safeParse(value === null ? switchValue(entry.text) : entry.text);
    if (!parsed.success) throw invalid(entry.name, `is ${JSON.stringify(entry.text)}: ${reasons(parsed.error)}`, key);
    values[key] = parsed.data;
  }
  return withDefaults(table, values);
}

/** Fills in defaults, for programs that give values instead of text. @throws SwitchyardError `invalid_request` for a number out of range, and for what is missing */
export function withDefaults<Table extends OptionTable>(table: Table, values: Record<string, unknown>): Values<Table> {
  const all: Record<string, unknown> = {};
  for (const [key, { fallback, schema }] of Object.entries(table)) {
    const value = values[key] ?? fallback;
    if (value === null && !schema.safeParse(null).success) throw invalid(flagOf(key), 'must be given', key);
    // Schemas read text.
    const parsed = typeof value === 'number' ? schema.safeParse(String(value)) : null;
    if (parsed?.success === false) throw invalid(flagOf(key), `is ${value}: ${reasons(parsed.error)}`, key);
    all[key] = value;
  }
  return Object.freeze(all) as Values<Table>;
}

function readFlags(table: OptionTable, args: readonly string[]): Map<string, { name: string; text: string }> {
  const keyOfFlag = new Map(Object.keys(table).map((key) => [flagOf(key), key]));
  const given = new Map<string, { name: string; text: string }>();
  for (let i = 0; i < args.length; i++) {
    const [flag, inline] = splitOnce(args[i], '=');
    const negated = flag.startsWith('--no-') ? keyOfFlag.get(`--${flag.slice('--no-'.length)}`) : undefined;
    const key = keyOfFlag.get(flag) ?? negated;
    if (key === undefined) throw invalid(flag, 'is not an option; --help lists them', null);
    const isSwitch = table[key].value === null;
    if (negated !== undefined && !keyOfFlag.has(flag)) {
      if (!isSwitch || inline !== null) throw invalid(flag, `is not a switch that can be turned off; use ${flagOf(key)} VALUE`, key);
      given.set(key, { name: flag, text: 'false' });
    } else if (isSwitch) {
      given.set(key, { name: flag, text: inline ?? 'true' });
    } else {
      const text = inline ?? args[++i];
      if (text === undefined) throw invalid(flag, `needs a value (${table[key].value})`, key);
      given.set(key, { name: flag, text });
    }
  }
  return given;
}

function splitOnce(text: string, separator: string): [string, string | null] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, null] : [text.slice(0, at), text.slice(at + 1)];
}

function switchValue(text: string): unknown {
  return text === 'true' || text === '1' ? true : text === 'false' || text === '0' ? false : text;
}

function reasons(error: z.ZodError): string {
  return error.issues.map((issue) => issue.message).join('; ');
}

function invalid(name: string, what: string, param: string | null): SwitchyardError {
  return new SwitchyardError('invalid_request', `${name} ${what}`, { param });
}

/** One line per option, for --help. */
export function helpOf(table: OptionTable): string {
  const lines = Object.entries(table).map(([key, { value, help, fallback }]) => {
    const left = value === null ? flagOf(key) : `${flagOf(key)} ${value}`;
    return `  ${left.padEnd(34)} ${help}${defaultText(fallback)}`;
  });
  return lines.join('\n');
}

/** The same as a Markdown table. */
export function documentationOf(table: OptionTable, prefix: string): string {
  const rows = Object.entries(table).map(([key, { value, help, fallback }]) => {
    const flag = value === null ? flagOf(key) : `${flagOf(key)} ${value}`;
    return `| \`${flag}\` | \`${environmentNameOf(prefix, key)}\` | ${help}${defaultText(fallback)} |`;
  });
  return ['| flag | environment | is |', '| --- | --- | --- |', ...rows].join('\n');
}

function defaultText(fallback: unknown): string {
  return fallback === null || fallback === false || fallback === '' ? '' : ` (${String(fallback)})`;
}
