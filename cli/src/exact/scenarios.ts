import type { ApiClient } from '../api/client.ts';
import { ApiError } from '../api/client.ts';
import type { Difference } from './difference.ts';
import { compareObservations } from './difference.ts';
import type { Observation, Question } from './observation.ts';
import { observe, observeAsPrompt, sliceObservation } from './observation.ts';

/** One row of `bench exact`: the same questions under other circumstances, against the answers that each gave alone. */
export interface ScenarioResult {
  scenario: string;
  questions: number;
  sameTokens: number;
  sameLogprobs: number;
  tokens: number;
  /** Null where no log-probabilities were compared. */
  largestLogprobDifference: number | null;
  /** Question and token of the first difference, or null. */
  firstDifference: { question: number; token: number } | null;
  /** Why nothing was compared, or null. */
  unsupported: string | null;
}

export interface ExactBench {
  client: ApiClient;
  questions: Question[];
  /** Questions that keep the server busy while others are compared. */
  others: Question[];
  signal: AbortSignal;
}

/** Every question, one after the other, on an otherwise idle server: what all else is compared with. */
export async function observeAlone(bench: ExactBench): Promise<Observation[]> {
  const seen: Observation[] = [];
  for (const question of bench.questions) seen.push(await observe(bench.client, question, false, bench.signal));
  return seen;
}

type Retell = (question: Question, expected: Observation) => Promise<{ expected: Observation; actual: Observation } | null>;

interface Scenario {
  name: string;
  /** Asks one question in this scenario's way and says which part of the reference it must equal; null where the server cannot do it. */
  retell(bench: ExactBench): Retell;
  /** Keep `others` running meanwhile. */
  busy?: boolean;
  /** Ask all questions at the same time. */
  together?: boolean;
  /** Asks something else than the questions, for which it needs the token ids of prompt and answer. */
  ids?: boolean;
  /** Only for greedy answers: a request's random numbers are counted from its first token, so that a continuation draws others. */
  greedy?: boolean;
}

const sameAgain = (bench: ExactBench): Retell => {
  return async (question, expected) => ({ expected, actual: await observe(bench.client, question, false, bench.signal) });
};

export const scenarios: Scenario[] = [
  { name: 'repeated', retell: sameAgain },
  {
    name: 'streamed',
    retell: (bench) => async (question, expected) => ({ expected, actual: await observe(bench.client, question, true, bench.signal) }),
  },
  { name: 'all at once', retell: sameAgain, together: true },
  { name: 'among others', retell: sameAgain, busy: true },
  { name: 'streamed among others', retell: (bench) => scenarios[1].retell(bench), busy: true },
  {
    name: 'with a warm prefix cache',
    ids: true,
    // A longer text that begins with the prompt goes first, so that every block of the prompt is in the cache when it is asked.
    retell: (bench) => async (question, expected) => {
      const longer = [...(question.prompt as number[]), ...expected.ids!, ...(question.prompt as number[])];
      await observe(bench.client, { ...question, prompt: longer, maxTokens: 1 }, false, bench.signal);
      return { expected, actual: await observe(bench.client, question, false, bench.signal) };
    },
  },
  {
    name: 'continued from the middle',
    ids: true,
    greedy: true,
    // The first half of the answer is given as prompt: what was decoded is now prefilled, and the second half must not notice.
    retell: (bench) => async (question, expected) => {
      const half = expected.tokens.length >> 1;
      const prompt = [...(question.prompt as number[]), ...expected.ids!.slice(0, half)];
      const rest = { ...question, prompt, maxTokens: expected.tokens.length - half };
      return {
        expected: sliceObservation(expected, half, expected.tokens.length),
        actual: await observe(bench.client, rest, false, bench.signal),
      };
    },
  },
  {
    name: 'given as a prompt',
    ids: true,
    retell: (bench) => async (question, expected) => {
      const actual = await observeAsPrompt(bench.client, question, question.prompt as number[], expected.ids!, bench.signal);
      // Only numbers are compared here: how a token of a prompt is printed is another matter than which it is.
      return actual === null
        ? null
        : { expected: { ...expected, alternatives: [], ids: null, tokens: actual.tokens }, actual: { ...actual, alternatives: [] } };
    },
  },
];

/** Runs one scenario over all questions. */
export async function runScenario(scenario: Scenario, bench: ExactBench, reference: readonly Observation[]): Promise<ScenarioResult> {
  const withoutIds =
    scenario.ids === true && (bench.questions.some((q) => typeof q.prompt === 'string') || reference.some((o) => o.ids === null));
  if (withoutIds) return notCompared(scenario.name, 'the server tells no token ids');
  if (scenario.greedy && bench.questions.some((q) => q.temperature > 0))
    return notCompared(scenario.name, 'a continuation draws its own random numbers');
  const stopOthers = scenario.busy ? keepBusy(bench) : async () => {};
  try {
    const retell = scenario.retell(bench);
    const differences: (Difference | null)[] = [];
    const one = async (index: number) => {
      const told = await retell(bench.questions[index], reference[index]);
      differences[index] = told && compareObservations(told.expected, told.actual);
    };
    if (scenario.together) await Promise.all(bench.questions.map((_, index) => one(index)));
    else for (const index of bench.questions.keys()) await one(index);
    if (differences.some((d) => d === null)) return notCompared(scenario.name, 'the server does not return the logprobs of a prompt');
    return summarise(scenario.name, differences as Difference[]);
  } catch (error) {
    // What goes beyond the questions a server may refuse, for it may not know a field; that it cannot do something is no difference. The questions themselves it
    // has answered, or another has: that it refuses them says that nothing was compared.
    if (scenario.ids && error instanceof ApiError && error.status === 400) return notCompared(scenario.name, `refused: ${error.message}`);
    throw error;
  } finally {
    await stopOthers();
  }
}

/** Compares answers from another server (another plan, other workers) with the reference, alone and under load. */
export async function runElsewhere(name: string, bench: ExactBench, reference: readonly Observation[]): Promise<ScenarioResult[]> {
  const rename = (result: ScenarioResult, suffix: string) => ({ ...result, scenario: `${name}, ${suffix}` });
  const alone = await runScenario({ name, retell: sameAgain }, bench, reference);
  const busy = await runScenario({ name, retell: sameAgain, busy: true }, bench, reference);
  return [rename(alone, 'alone'), rename(busy, 'among others')];
}

function summarise(scenario: string, differences: Difference[]): ScenarioResult {
  const question = differences.findIndex((d) => d.firstAt !== null);
  return {
    scenario,
    questions: differences.length,
    sameTokens: differences.filter((d) => d.sameTokens).length,
    sameLogprobs: differences.filter((d) => d.sameLogprobs).length,
    tokens: differences.reduce((sum, d) => sum + d.tokens, 0),
    largestLogprobDifference: largestOf(differences.map((d) => d.largestLogprobDifference)),
    firstDifference: question < 0 ? null : { question, token: differences[question].firstAt! },
    unsupported: null,
  };
}

function largestOf(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : Math.max(...known);
}

/** The row of a scenario that says only why it has nothing. */
export function notCompared(scenario: string, unsupported: string): ScenarioResult {
  return {
    scenario,
    questions: 0,
    sameTokens: 0,
    sameLogprobs: 0,
    tokens: 0,
    largestLogprobDifference: null,
    firstDifference: null,
    unsupported,
  };
}

/**
 * One client per question of `others`, each asking again and again. The function returned stops them, and fails if any of them had failed before: a server
 * that refuses load has not been compared under load.
 */
function keepBusy(bench: ExactBench): () => Promise<void> {
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, bench.signal]);
  const askForever = async (question: Question): Promise<Error | null> => {
    try {
      while (!signal.aborted) await observe(bench.client, question, true, signal);
    } catch (error) {
      return signal.aborted ? null : (error as Error);
    }
    return null;
  };
  const clients = bench.others.map(askForever);
  return async () => {
    stop.abort();
    const failure = (await Promise.all(clients)).find((error) => error !== null);
    if (failure) throw failure;
  };
}
