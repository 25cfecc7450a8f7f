import type { ServerResponse } from 'node:http';
import { sendError } from './reply.ts';

/** Requests that have come and whose responses have not closed: what a shutdown waits for. */
export class OpenExchanges {
  readonly #responses = new Set<ServerResponse>();
  #onIdle: () => void = () => {};

  add(response: ServerResponse): void {
    this.#responses.add(response);
    response.once('close', () => {
      this.#responses.delete(response);
      if (this.#responses.size === 0) this.#onIdle();
    });
  }

  /** Resolves once none is open. */
  idle(): Promise<void> {
    if (this.#responses.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** Refuses those whose response has not begun. */
  refuse(error: Error): void {
    for (const response of this.#responses) sendError(response, error);
  }
}
