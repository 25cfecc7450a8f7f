import { SwitchyardError } from '@switchyard/proto';

/**
 * Reads the fields of a request one by one. Null counts as absent, as it does for OpenAI. Every error names the field, its value and what is allowed. Remembers
 * which fields were asked for, so that unknown ones can be told.
 */
export class Fields {
  readonly #body: Readonly<Record<string, unknown>>;
  readonly #path: string;
  readonly #known = new Set<string>();

  constructor(body: Readonly<Record<string, unknown>>, path = '') {
    this.#body = body;
    this.#path = path;
  }

  has(name: string): boolean {
    return this.raw(name) !== null;
  }

  /** The value as it stands, or null. */
  raw(name: string): unknown {
    this.#known.add(name);
    return (Object.hasOwn(this.#body, name) ? this.#body[name] : null) ?? null;
  }

  text(name: string, charsMax = Number.POSITIVE_INFINITY): string | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (typeof value !== 'string') throw this.wrong(name, value, 'a string is needed');
    if (value.length > charsMax) throw this.invalid(name, `has ${value.length} characters; the limit is ${charsMax}`);
    return value;
  }

  number(name: string, min: number, max: number): number | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (typeof value !== 'number') throw this.wrong(name, value, 'a number is needed');
    if (!(value >= min && value <= max)) throw this.invalid(name, `is ${value}; it must be from ${min} to ${max}`);
    return value;
  }

  whole(name: string, min: number, max: number): number | null {
    const value = this.number(name, min, max);
    if (value !== null && !Number.isInteger(value)) throw this.invalid(name, `is ${value}; a whole number is needed`);
    return value;
  }

  flag(name: string): boolean | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (typeof value !== 'boolean') throw this.wrong(name, value, 'true or false is needed');
    return value;
  }

  object(name: string): Record<string, unknown> | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.wrong(name, value, 'an object is needed');
    return value as Record<string, unknown>;
  }

  list(name: string, lengthMax: number): unknown[] | null {
    const value = this.raw(name);
    if (value === null) return null;
    if (!Array.isArray(value)) throw this.wrong(name, value, 'a list is needed');
    if (value.length > lengthMax) throw this.invalid(name, `has ${value.length} entries; the limit is ${lengthMax}`);
    return value;
  }

  oneOf<const T extends string>(name: string, names: readonly T[]): T | null {
    const value = this.text(name);
    if (value === null) return null;
    if (!(names as readonly string[]).includes(value))
      throw this.invalid(name, `is ${quoted(value)}; it must be one of ${names.join(', ')}`);
    return value as T;
  }

  /** A field whose meaning we cannot give: silently ignoring it would be a wrong answer. */
  refuse(name: string, why: string): void {
    if (this.has(name)) throw this.invalid(name, `is not supported: ${why}`);
  }

  unknown(): string[] {
    return Object.keys(this.#body).filter((name) => !this.#known.has(name));
  }

  /** Fields that are known and mean nothing here. */
  ignore(...names: string[]): void {
    for (const name of names) this.#known.add(name);
  }

  /** How messages name it. */
  pathOf(name: string): string {
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }

  invalid(name: string, what: string): SwitchyardError {
    const param = this.pathOf(name);
    return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
  }

  wrong(name: string, value: unknown, needed: string): SwitchyardError {
    return this.invalid(name, `is ${typeName(value)}; ${needed}`);
  }
}

export function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'an object';
  return typeof value === 'string' ? `the string ${quoted(value)}` : `the ${typeof value} ${String(value)}`;
}

/** A client's value in a message: bounded, and never walked, for it may be nested as deep as a body is long. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return quoted(value);
  return typeof value === 'object' ? typeName(value) : String(value);
}

/** A client's text in a message: bounded. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 64 ? `${text.slice(0, 64)}…` : text);
}
