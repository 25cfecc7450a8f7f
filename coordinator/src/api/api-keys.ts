import { createHash, createHmac, randomBytes } from 'node:crypto';
import { readSecretText, SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/**
 * Keys and whose they are. A key is looked up by a keyed digest made with a secret of this process: how long that takes says nothing about any key.
 */
export class ApiKeys {
  readonly #secret = randomBytes(32);
  readonly #tenantOf = new Map<string, string>();

  /** @param lines "KEY TENANT" or "KEY", a tenant of its own; empty lines and those that begin with # mean nothing */
  constructor(lines: readonly string[]) {
    for (const line of lines) {
      const [key, tenant] = line.trim().split(/\s+/);
      if (key === '' || key.startsWith('#')) continue;
      this.#tenantOf.set(this.#digest(key), tenant ?? `key-${createHash('sha256').update(key).digest('hex').slice(0, 12)}`);
    }
  }

  /** @throws SwitchyardError `invalid_request` naming the option */
  static read(file: string, option: string): ApiKeys {
    const lines = readSecretText(file, option).split('\n');
    const keys = new ApiKeys(lines);
    if (keys.#tenantOf.size === 0) throw new SwitchyardError('invalid_request', `${option} ${file}: has no key`);
    if (keys.#tenantOf.size > bounds.apiKeysMax)
      throw new SwitchyardError('invalid_request', `${option} ${file}: has ${keys.#tenantOf.size} keys; the limit is ${bounds.apiKeysMax}`);
    return keys;
  }

  /** @param header value of `Authorization`; null when it names no known key */
  tenantOf(header: string | undefined): string | null {
    const match = /^Bearer +(\S+) *$/i.exec(header ?? '');
    return match === null ? null : (this.#tenantOf.get(this.#digest(match[1])) ?? null);
  }

  #digest(key: string): string {
    return createHmac('sha256', this.#secret).update(key).digest('base64');
  }
}
