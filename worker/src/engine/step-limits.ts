import { solePromptRows } from '@switchyard/proto';
import type { StepLimits } from './schedule.ts';
import type { Sequence } from './sequence.ts';
import type { StepLane } from './step-lane.ts';
import { Activity, type TimeSplit } from './time-split.ts';

/** Other homes are taken to need this worker for so long after it last computed something for them. */
const OTHERS_MS = 1000;

/** Of the next step on a lane: what bounds each, and what depends on who else is there. */
export function stepLimits(
  { work, limits }: Pick<StepLane, 'work' | 'limits'>,
  running: readonly Sequence[],
  waiting: readonly Sequence[],
  { endedMs }: Pick<TimeSplit, 'endedMs'>,
): StepLimits {
  const othersMs = endedMs[Activity.expertsOthers];
  const othersWait = performance.now() - othersMs < OTHERS_MS;
  if (work !== 'prefill') return { ...limits, othersWait };
  // Fewer rows for a prompt that is alone here while no other home asks for experts: by what it lacked at first, so that its chunks are of one size.
  const sole = solePrompt(running, waiting);
  const rows = sole === null || othersMs >= sole.submittedMs ? limits.rows : solePromptRows(sole.length - sole.likelyCached, limits.rows);
  return { ...limits, rows, othersWait };
}

function solePrompt(running: readonly Sequence[], waiting: readonly Sequence[]): Sequence | null {
  if (waiting.length > 1) return null;
  let sole = waiting[0] ?? null;
  for (const sequence of running) {
    if (sequence.ending || !isPrompt(sequence)) continue;
    if (sole !== null) return null;
    sole = sequence;
  }
  return sole;
}

/** Has more to compute than the token that it produced last. */
function isPrompt({ length, computed }: Sequence): boolean {
  return length - computed > 1;
}
