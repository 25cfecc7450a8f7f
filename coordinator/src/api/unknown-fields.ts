import { bounds } from '../bounds.ts';
import type { Log } from '../log.ts';
import type { Exchange } from './exchange.ts';
import { type Fields, quoted } from './fields.ts';

/** Unknown fields are accepted, for many clients send some. Each is logged once, by name alone. */
export class UnknownFields {
  readonly #logged = new Set<string>();

  log(log: Log, exchange: Exchange, fields: Fields): void {
    for (const name of fields.unknown()) {
      if (this.#logged.size >= bounds.unknownFieldsLoggedMax) return;
      const shown = quoted(name);
      if (this.#logged.has(shown)) continue;
      this.#logged.add(shown);
      log.warn({ request: exchange.id, path: exchange.path }, `unknown field ${shown} was ignored`);
    }
  }
}
