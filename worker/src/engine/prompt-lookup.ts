/** Tokens at the end of a text that must have stood in it before; what followed them then is a guess of what follows now. */
export const MATCH_MIN = 2;
/** More than so many are not compared: a longer repetition is hardly surer. */
export const MATCH_MAX = 4;
/** Positions that are looked through, the latest first: some microseconds where nothing is found. */
const WINDOW = 8192;

/** An earlier place with the same tokens before it as the end of the text has. */
export interface Repetition {
  /** Position of the token that followed. */
  next: number;
  /** How many tokens before it are alike: MATCH_MIN .. MATCH_MAX. */
  match: number;
}

/**
 * Prompt lookup, the drafting that needs no model (n-gram speculation in vLLM and llama.cpp): texts repeat names, phrases, code and what they were asked about.
 * Finds the longest repetition, of equally long ones the latest.
 */
export function findRepetition(tokens: Int32Array, length: number): Repetition | null {
  if (length < MATCH_MIN) return null;
  const last = tokens[length - 1];
  const before = tokens[length - 2];
  let found: Repetition | null = null;
  for (let at = length - 2, end = Math.max(1, length - 1 - WINDOW); at >= end; at--) {
    if (tokens[at] !== last || tokens[at - 1] !== before) continue;
    let match = MATCH_MIN;
    while (match < MATCH_MAX && match <= at && tokens[at - match] === tokens[length - 1 - match]) match++;
    if (found !== null && match <= found.match) continue;
    found = { next: at + 1, match };
    if (match === MATCH_MAX) break;
  }
  return found;
}
