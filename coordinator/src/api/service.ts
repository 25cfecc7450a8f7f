import type { Config } from '../config.ts';
import type { Health } from '../health/health.ts';
import type { Log } from '../log.ts';
import type { Membership } from '../membership/membership.ts';
import type { Metrics } from '../metrics/metrics.ts';
import type { Dispatcher } from '../requests/dispatcher.ts';
import type { Tokenizing } from '../tokenizing/tokenizing.ts';
import type { TraceRecorder } from '../trace/trace-recorder.ts';
import type { TokenTexts } from './answer-format.ts';
import type { ApiKeys } from './api-keys.ts';
import type { LeasedMemory } from './leased-memory.ts';
import type { OpenExchanges } from './open-exchanges.ts';
import type { ModelBounds } from './sampling-fields.ts';

/** Everything that handlers of the HTTP API work with. */
export interface Service {
  readonly config: Config;
  readonly version: string;
  readonly modelId: string;
  readonly modelDir: string;
  /** Seconds of Unix time. */
  readonly createdAt: number;
  readonly model: ModelBounds;
  /** Experts of a token, and values of a row (null where the checkpoint does not say). */
  readonly topK: number;
  readonly hidden: number | null;
  readonly tokenizing: Tokenizing;
  readonly tokenTexts: TokenTexts;
  readonly membership: Membership;
  readonly dispatcher: Dispatcher;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly trace: TraceRecorder;
  readonly exchanges: OpenExchanges;
  readonly bodies: LeasedMemory;
  readonly answers: LeasedMemory;
  readonly log: Log;
  /** Null: the API is open. */
  readonly apiKeys: ApiKeys | null;
  readonly adminKeys: ApiKeys | null;
  /** True once the process is asked to end: nothing new is begun. */
  readonly draining: boolean;
  /** As workers name it. */
  readonly numericClass: string;
  /** Tokens of one sequence, as far as is known by now; null when nothing is. */
  contextMax(): number | null;
  /** Names what answers follow from: plan, weights and numeric class. */
  fingerprint(): string;
  /** The status document (docs/observe.md). */
  status(): Record<string, unknown>;
}
