/**
 * What a worker of relative speed 1 needs for each part of a step, as measured on one host alone, or between two. Processor seconds on a core of its own.
 */
export interface HostModel {
  /** Of a step as a whole: scheduling and filling it, for each row of it; and for each token that it gives a sequence, logits, sampling and sending. */
  step: { fixed: number; perRow: number; perToken: number };
  /** Attention, norms, router of one layer. `perContext`: for each position that a row attends to. */
  segment: { fixed: number; perRow: number; perContext: number };
  /** Experts of one layer in one call: rows are (row, expert) pairs; each distinct expert's weights are read once. */
  experts: { fixed: number; perRow: number; perExpert: number };
  /** One end of one frame: making and sending it, or receiving and using it. */
  frame: FrameCost;
  /** Beginning to work after a wait for rows: the core has slept, and caches have gone cold. */
  wake: number;
  /** The API and its clients, where they share the workers' cores: for each request before it begins, each step's message, each token. */
  outside: { perRequest: number; perStep: number; perToken: number };
}

export interface FrameCost {
  fixed: number;
  perByte: number;
}

/** Cores that some workers share: those of one host, or of several hosts that are really one machine. */
export interface CoreGroup {
  cores: number;
  /** Relative speed of a core while others work beside it, for they share caches and memory; and while more programs are at work than there are cores, which take turns. */
  crowdedSpeed: { beside: number; sharing: number };
  workers: readonly number[];
  /** The API and its clients run here too. */
  outside: boolean;
  /** A program here carries the frames between nodes, before anything else runs, and needs so long for each; null: the network needs no core of ours. */
  carrier: FrameCost | null;
}

/** Bytes of one frame: its header, and for each row its values and its tables. */
export interface FrameSizes {
  headerBytes: number;
  dispatchRowBytes: number;
  /** Tables of one (row, expert) pair. */
  pairBytes: number;
  combineRowBytes: number;
}

/** One step of a home. */
export interface PlannedStep {
  /** Tokens of the trace whose routing its rows have. */
  rows: readonly number[];
  /** Positions that its rows attend to, summed over them. */
  contextTokens: number;
  /** Tokens that it gives to sequences. */
  tokens: number;
  /** Requests that must have come in, of all homes together, before it can begin. */
  afterRequests: number;
}
