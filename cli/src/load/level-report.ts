import type { Distribution } from './distribution.ts';
import { distribution } from './distribution.ts';
import type { TimedCompletion } from './timed-completion.ts';

/** What one concurrency level of `bench serve` measured. Milliseconds, tokens and seconds as named; null where nothing was measured. */
export interface LevelReport {
  concurrency: number;
  requests: number;
  errors: number;
  /** The distinct messages of failed requests, most frequent first. */
  errorMessages: { message: string; count: number }[];
  /** From the first request's start to the last one's end. */
  seconds: number;
  /** Null where the server reports no usage of some request: what it says of the others would pass for all, and output tokens are counted by chunks. */
  promptTokens: number | null;
  /** Of those; null where the server does not tell. */
  cachedTokens: number | null;
  outputTokens: number;
  requestsPerSecond: number;
  outputTokensPerSecond: number;
  /** Prompt and output tokens together. */
  totalTokensPerSecond: number | null;
  /** From sending a request to its first token. */
  timeToFirstTokenMs: Distribution | null;
  /** Gaps between chunks that carry text: what a reader sees. A chunk may carry several tokens. */
  interTokenMs: Distribution | null;
  /** (last - first chunk) / (tokens - 1), per request. */
  timePerOutputTokenMs: Distribution | null;
  requestMs: Distribution | null;
}

const errorMessagesMax = 5;

/** Pure: the figures of one level from what its requests saw. Only requests that succeeded count towards speed. */
export function levelReport(concurrency: number, completions: readonly TimedCompletion[]): LevelReport {
  const good = completions.filter((c) => c.error === null);
  const seconds = elapsedSeconds(completions);
  const promptTokens = sumOfKnown(good.map((c) => c.promptTokens));
  const outputTokens = good.reduce((total, c) => total + c.outputTokens, 0);
  const perSecond = (amount: number) => (seconds > 0 ? amount / seconds : 0);
  return {
    concurrency,
    requests: completions.length,
    errors: completions.length - good.length,
    errorMessages: countMessages(completions),
    seconds,
    promptTokens,
    cachedTokens: sumOfKnown(good.map((c) => c.cachedTokens)),
    outputTokens,
    requestsPerSecond: perSecond(good.length),
    outputTokensPerSecond: perSecond(outputTokens),
    totalTokensPerSecond: promptTokens === null ? null : perSecond(promptTokens + outputTokens),
    timeToFirstTokenMs: distribution(good.filter((c) => c.chunkMs.length > 0).map((c) => c.chunkMs[0] - c.startMs)),
    interTokenMs: distribution(good.flatMap((c) => c.chunkMs.slice(1).map((at, i) => at - c.chunkMs[i]))),
    timePerOutputTokenMs: distribution(
      good
        .filter((c) => c.outputTokens > 1 && c.chunkMs.length > 1)
        .map((c) => (c.chunkMs[c.chunkMs.length - 1] - c.chunkMs[0]) / (c.outputTokens - 1)),
    ),
    requestMs: distribution(good.map((c) => c.endMs - c.startMs)),
  };
}

function sumOfKnown(counts: readonly (number | null)[]): number | null {
  return counts.reduce((total, count) => (total === null || count === null ? null : total + count), 0);
}

/** A million requests are more than a call takes arguments. */
function elapsedSeconds(completions: readonly TimedCompletion[]): number {
  let first = Number.POSITIVE_INFINITY;
  let last = Number.NEGATIVE_INFINITY;
  for (const { startMs, endMs } of completions) {
    first = Math.min(first, startMs);
    last = Math.max(last, endMs);
  }
  return completions.length === 0 ? 0 : (last - first) / 1000;
}

function countMessages(completions: readonly TimedCompletion[]): { message: string; count: number }[] {
  const counts = new Map<string, number>();
  for (const { error } of completions) if (error !== null) counts.set(error, (counts.get(error) ?? 0) + 1);
  return [...counts]
    .map(([message, count]) => ({ message, count }))
    .sort((a, b) => b.count - a.count)
    .slice(0, errorMessagesMax);
}
