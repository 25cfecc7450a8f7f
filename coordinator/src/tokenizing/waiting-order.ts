/** A text that waits to be tokenised. */
export interface WaitingText {
  chars: number;
  /** Characters of those that came after it and were taken before it. */
  overtakenChars: number;
}

/**
 * Takes the next of those that wait in their order of arrival: the shortest, for it keeps the others waiting least. But one that was overtaken by `overtakingMax`
 * times its own length comes first, or it would wait as long as shorter ones come.
 */
export function takeNext<Text extends WaitingText>(waiting: Text[], overtakingMax: number): Text | null {
  const starved = waiting.findIndex(({ chars, overtakenChars }) => overtakenChars >= overtakingMax * chars);
  const shortest = waiting.reduce((best, { chars }, i) => (chars < waiting[best].chars ? i : best), 0);
  const next = starved < 0 ? shortest : starved;
  const [taken] = waiting.splice(next, 1);
  if (taken === undefined) return null;
  for (const passed of waiting.slice(0, next)) passed.overtakenChars += taken.chars;
  return taken;
}
