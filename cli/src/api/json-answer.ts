import { CommandFailure } from '../failure.ts';

/** An answer that is none of this API: a page of a web site, say. */
export class ForeignAnswer extends CommandFailure {}

/** Enough to know a page, or a message, by its beginning. */
const shownChars = 80;

/** @param what it is, as the message names it */
export function jsonObject(text: string, what: string): object {
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  } catch {
    // Said below.
  }
  throw new ForeignAnswer(`${what} is no JSON object: ${text.slice(0, shownChars)}`);
}

/** The one choice that was asked for. @param path that was asked */
export function onlyChoice<T extends object>(body: { choices?: unknown }, path: string): T {
  const choice = Array.isArray(body.choices) ? (body.choices[0] as unknown) : null;
  if (typeof choice === 'object' && choice !== null) return choice as T;
  throw new ForeignAnswer(`the answer of ${path} has no choices`);
}

/** What a server counted; null where it does not tell. */
export function countOf(value: unknown): number | null {
  return Number.isSafeInteger(value) ? (value as number) : null;
}
