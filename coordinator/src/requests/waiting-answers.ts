import { limits, SwitchyardError } from '@switchyard/proto';
import type { Answer } from './answer.ts';

/** Of the places to wait, and of the memory of answers, the part that one tenant may have where there are several: whoever takes all it can get leaves room for the others. */
const TENANT_SHARE = 0.75;

export interface QueueLimits {
  runningMax: number;
  waitingMax: number;
  /** Of those, what one tenant may have. */
  tenantWaitingMax: number;
}

/**
 * Answers that wait for a worker. Tenants take turns, so that one who sends much waits behind its own; those of a tenant go in the order in which they came.
 */
export class WaitingAnswers {
  /** By tenant, whose turn is next first; none is empty. */
  #queues = new Map<string, Answer[]>();
  #length = 0;
  readonly #limits: QueueLimits;

  constructor(queueLimits: QueueLimits) {
    this.#limits = queueLimits;
  }

  get length(): number {
    return this.#length;
  }

  /** Those of one request, all or none. @throws SwitchyardError `queue_full` */
  take(answers: readonly Answer[], running: number): void {
    const { tenant } = answers[0].spec;
    const { runningMax, waitingMax, tenantWaitingMax } = this.#limits;
    const check = (waiting: number, limit: number, whose: string) => {
      if (running + waiting + answers.length > runningMax + limit)
        throw new SwitchyardError(
          'queue_full',
          `${running} sequences run and ${waiting}${whose} wait; with ${answers.length} more the limits of ${runningMax} and ${limit} are exceeded`,
        );
    };
    check(this.#length, waitingMax, '');
    check(this.#queues.get(tenant)?.length ?? 0, tenantWaitingMax, ' of your own');
    for (const answer of answers) this.#push(answer);
  }

  #push(answer: Answer): void {
    const queue = this.#queues.get(answer.spec.tenant);
    if (queue === undefined) this.#queues.set(answer.spec.tenant, [answer]);
    else queue.push(answer);
    this.#length++;
  }

  /** Has waited longest of all. */
  unshift(answer: Answer): void {
    const { tenant } = answer.spec;
    const queue = this.#queues.get(tenant) ?? [];
    this.#queues.delete(tenant);
    this.#queues = new Map([[tenant, [answer, ...queue]], ...this.#queues]);
    this.#length++;
  }

  /** The next, after which it is the others' turn. */
  shift(): Answer | undefined {
    for (const [tenant, queue] of this.#queues) {
      this.#queues.delete(tenant);
      if (queue.length > 1) this.#queues.set(tenant, queue);
      this.#length--;
      return queue.shift();
    }
    return undefined;
  }

  remove(answer: Answer): void {
    const { tenant } = answer.spec;
    const queue = this.#queues.get(tenant);
    const at = queue?.indexOf(answer) ?? -1;
    if (queue === undefined || at < 0) return;
    queue.splice(at, 1);
    if (queue.length === 0) this.#queues.delete(tenant);
    this.#length--;
  }

  clear(): Answer[] {
    const all = [...this.#queues.values()].flat();
    this.#queues.clear();
    this.#length = 0;
    return all;
  }
}

/** What one tenant may have of what all of them may. */
export function tenantPart(whole: number, tenants: number): number {
  return tenants > 1 ? Math.ceil(TENANT_SHARE * whole) : whole;
}

/**
 * Sequences that a worker may have beyond its batch, where it is the worker's choice which begins next. As many as it takes; where tenants take turns, only what its
 * batch is filled from until the next ones arrive.
 */
export function beyondBatchMax(batchMax: number, tenants: number): number {
  return tenants > 1 ? Math.max(4, Math.ceil(batchMax / 8)) : limits.requestsWaitingMax;
}
