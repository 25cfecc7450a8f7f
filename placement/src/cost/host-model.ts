/** Seconds of work: `fixed` however little there is, and so much for each unit more. */
export interface WorkCost {
  fixed: number;
  perRow: number;
}

/**
 * What a worker of relative speed 1 needs for each part of a step, as measured on one host alone. Seconds on a core of its own.
 */
export interface HostModel {
  /** Beginning and end of a step: scheduling, readout, sampling. Rows are those of the step. */
  step: WorkCost;
  /** Attention, norms, router of one layer. */
  segment: WorkCost;
  /** Experts of one layer in one call: rows are (row, expert) pairs; each distinct expert's weights are read once. */
  experts: WorkCost & { perExpert: number };
  /** One end of one frame: making and sending it, or receiving and using it. */
  frame: { fixed: number; perByte: number };
  /** What the rest of the system spends on a generated token beside the workers, where it shares their cores: the API and its clients. */
  outsidePerToken: number;
}

/** Cores that some workers share: those of one host, or of several hosts that are really one machine. */
export interface CoreGroup {
  cores: number;
  workers: readonly number[];
  /** The API and its clients run here too. */
  outside: boolean;
}

/** Bytes of one frame: its header, and for each row its values and its tables. */
export interface FrameSizes {
  headerBytes: number;
  dispatchRowBytes: number;
  /** Tables of one (row, expert) pair. */
  pairBytes: number;
  combineRowBytes: number;
}
