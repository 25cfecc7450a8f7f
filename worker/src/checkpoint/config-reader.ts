import { badCheckpoint, quoted, shown } from './bad-checkpoint.ts';

/** Sizes of real settings: their squares and reciprocals are numbers in f32 too. */
const [sizeMin, sizeMax] = [1e-18, 1e18];
const isSize = (value: unknown) => typeof value === 'number' && value >= sizeMin && value <= sizeMax;

const isIndexList = (value: unknown) => Array.isArray(value) && value.every((x) => Number.isSafeInteger(x) && x >= 0);

/**
 * Typed, bounded reading of `config.json`. Every failure is `bad_checkpoint` naming the file, the key, the value and what is allowed. A key that is
 * absent or null takes the fallback; without one it is required.
 */
export class ConfigReader {
  readonly path: string;
  private readonly values: Record<string, unknown>;
  /** e.g. "rope_scaling." for a nested object. */
  private readonly prefix: string;

  constructor(path: string, values: Record<string, unknown>, prefix = '') {
    this.path = path;
    this.values = values;
    this.prefix = prefix;
  }

  has(key: string): boolean {
    return Object.hasOwn(this.values, key) && this.values[key] !== null && this.values[key] !== undefined;
  }

  /** The first of several names for one thing that the config uses; the first name if it uses none. */
  firstOf(keys: readonly string[]): string {
    return keys.find((key) => this.has(key)) ?? keys[0]!;
  }

  /** The same settings, but for these. */
  setting(values: Readonly<Record<string, unknown>>): ConfigReader {
    return new ConfigReader(this.path, { ...this.values, ...values }, this.prefix);
  }

  /** The same settings, with these values for keys that the file does not mention at all: what the family's own code takes for them. */
  defaulting(values: Readonly<Record<string, unknown>>): ConfigReader {
    return new ConfigReader(this.path, { ...values, ...this.values }, this.prefix);
  }

  /** The same settings, where keys that may be lists with an entry per layer hold the one value that all layers must share. */
  uniform(keys: readonly string[], layers: number): ConfigReader {
    const values = { ...this.values };
    for (const key of keys) {
      const list = values[key];
      if (!Array.isArray(list)) continue;
      if (list.length !== layers || list.some((value) => value !== list[0]))
        throw this.refusal(key, `a list of one value for all ${layers} layers`);
      values[key] = list[0];
    }
    return new ConfigReader(this.path, values, this.prefix);
  }

  /** A positive size or number of things, at most `max`. */
  count(key: string, fallback?: number, max = 16_777_216): number {
    return this.read(key, fallback, (v) => Number.isSafeInteger(v) && v >= 1 && v <= max, `an integer from 1 to ${max}`);
  }

  /** An integer from 0, such as an index or a number of things that may be absent. */
  index(key: string, fallback?: number, max = 16_777_216): number {
    return this.read(key, fallback, (v) => Number.isSafeInteger(v) && v >= 0 && v <= max, `an integer from 0 to ${max}`);
  }

  real(key: string, fallback?: number): number {
    return this.read(
      key,
      fallback,
      (v) => typeof v === 'number' && (isSize(Math.abs(v)) || v === 0),
      `0 or a number of size ${sizeMin} to ${sizeMax}`,
    );
  }

  nonNegative(key: string, fallback?: number): number {
    return this.read(key, fallback, (v) => isSize(v) || v === 0, `0 or a number from ${sizeMin} to ${sizeMax}`);
  }

  positive(key: string, fallback?: number): number {
    return this.read(key, fallback, isSize, `a number from ${sizeMin} to ${sizeMax}`);
  }

  flag(key: string, fallback?: boolean): boolean {
    return this.read(key, fallback, (v) => typeof v === 'boolean', 'true or false');
  }

  /** One of the names that are implemented; any other is refused by name. */
  choice<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    return this.read(key, fallback, (v) => allowed.includes(v as T), `supported here; supported: ${allowed.join(', ')}`);
  }

  numbers(key: string, length: number): number[] {
    const fits = (v: unknown) => Array.isArray(v) && v.length === length && v.every((x) => typeof x === 'number' && Number.isFinite(x));
    return this.read<number[]>(key, undefined, fits, `a list of ${length} numbers`);
  }

  indexes(key: string, fallback?: number[]): number[] {
    return this.read<number[]>(key, fallback, isIndexList, 'a list of indexes');
  }

  names<T extends string>(key: string, allowed: readonly T[], length: number): T[] | null {
    if (!this.has(key)) return null;
    const fits = (v: unknown) => Array.isArray(v) && v.length === length && v.every((x) => allowed.includes(x as T));
    return this.read<T[]>(key, undefined, fits, `a list of ${length} names out of ${allowed.join(', ')}`);
  }

  nested(key: string): ConfigReader | null {
    if (!this.has(key)) return null;
    const value = this.values[key];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.refusal(key, 'an object');
    return new ConfigReader(this.path, value as Record<string, unknown>, `${this.prefix}${key}.`);
  }

  /** Files say "nothing" by an empty object, too. */
  orNullIfEmpty(): ConfigReader | null {
    return Object.keys(this.values).length === 0 ? null : this;
  }

  refusal(key: string, wanted: string): Error {
    const value = Object.hasOwn(this.values, key) ? shown(this.values[key]) : 'absent';
    return badCheckpoint(this.path, `${quoted(this.prefix + key)} is ${value}, not ${wanted}`, this.prefix + key);
  }

  private read<T>(key: string, fallback: T | undefined, fits: (value: never) => boolean, wanted: string): T {
    if (!this.has(key)) {
      if (fallback === undefined) throw this.refusal(key, wanted);
      return fallback;
    }
    const value = this.values[key];
    if (!fits(value as never)) throw this.refusal(key, wanted);
    return value as T;
  }
}
