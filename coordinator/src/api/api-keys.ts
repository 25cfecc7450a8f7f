import { createHash, createHmac, randomBytes } from 'node:crypto';
import { readSecretText, SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/**
 * Keys and whose they are. A key is looked up by a keyed digest made with a secret of this process: how long that takes says nothing about any key.
 */
export class ApiKeys {
  readonly #secret = randomBytes(32);
  readonly #tenantOf = new Map<string, string>();

  /**
   * @param lines "KEY TENANT" or "KEY", a tenant of its own; empty lines and those that begin with # mean nothing
   * @param where the lines are, for messages: these show no key
   * @throws SwitchyardError `invalid_request` for a line that does not say whose its key is: tenants that were taken for one would share what is kept apart
   */
  constructor(lines: readonly string[], where: string) {
    for (const [i, line] of lines.entries()) {
      const [key, named, ...more] = line.trim().split(/\s+/);
      if (key === '' || key.startsWith('#')) continue;
      const wrong = (what: string) => new SwitchyardError('invalid_request', `${where}: line ${i + 1} ${what}`);
      if (more.length > 0) throw wrong(`has ${2 + more.length} words; a key and the name of its tenant are needed`);
      const tenant = named ?? `key-${createHash('sha256').update(key).digest('hex').slice(0, 12)}`;
      if (tenant.length > bounds.nameCharsMax)
        throw wrong(`names a tenant of ${tenant.length} characters; the limit is ${bounds.nameCharsMax}`);
      const digest = this.#digest(key);
      const other = this.#tenantOf.get(digest);
      if (other !== undefined && other !== tenant) throw wrong(`gives the tenant ${tenant} a key that is of ${other}`);
      this.#tenantOf.set(digest, tenant);
    }
  }

  /** @throws SwitchyardError `invalid_request` naming the option */
  static read(file: string, option: string): ApiKeys {
    const lines = readSecretText(file, option).split('\n');
    const keys = new ApiKeys(lines, `${option} ${file}`);
    if (keys.#tenantOf.size === 0) throw new SwitchyardError('invalid_request', `${option} ${file}: has no key`);
    if (keys.#tenantOf.size > bounds.apiKeysMax)
      throw new SwitchyardError('invalid_request', `${option} ${file}: has ${keys.#tenantOf.size} keys; the limit is ${bounds.apiKeysMax}`);
    return keys;
  }

  /** How many there are. */
  get tenants(): number {
    return new Set(this.#tenantOf.values()).size;
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
