import type { IncomingHttpHeaders } from 'node:http';
import { isLoopback, SwitchyardError } from '@switchyard/proto';
import { quoted } from './fields.ts';

/** What a page of another site sends, or a browser that was made to take this server for one. Status 403. */
export class ForeignHeader extends SwitchyardError {
  constructor(param: 'host' | 'origin', value: string) {
    super(
      'invalid_request',
      `${param} is ${quoted(value)}: without API keys a server on loopback is there for this machine alone; --allowed-hosts names others, --api-key-file lets in whoever has a key`,
      { param },
    );
  }
}

/**
 * Names under which a server without keys may be asked for on loopback. A web page may have its own name mean 127.0.0.1 and then ask as if this server were its
 * site ("DNS rebinding"): the names that the browser gives are all that tells.
 */
export class AllowedHosts {
  readonly #any: boolean;
  readonly #names: ReadonlySet<string>;

  /** @param names without port; "*" is any */
  constructor(names: readonly string[]) {
    this.#any = names.includes('*');
    this.#names = new Set(names.filter((name) => name !== '').map(bare));
  }

  /** @throws ForeignHeader. Without either header nothing is wrong: browsers send them. */
  check({ host, origin }: Pick<IncomingHttpHeaders, 'host' | 'origin'>): void {
    if (this.#any) return;
    if (host !== undefined && !this.#has(bare(host.replace(/:\d*$/, '')))) throw new ForeignHeader('host', host);
    if (origin !== undefined && !this.#has(hostOf(origin))) throw new ForeignHeader('origin', origin);
  }

  #has(name: string): boolean {
    return isLoopback(name) || this.#names.has(name);
  }
}

/** Of "null", which sandboxed pages send, and what else is no address: ''. */
function hostOf(origin: string): string {
  return URL.canParse(origin) ? bare(new URL(origin).hostname) : '';
}

function bare(host: string): string {
  return host
    .toLowerCase()
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/\.$/, '');
}
