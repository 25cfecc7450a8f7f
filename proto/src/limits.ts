/** Every bound of the system, with its reason. Nothing queues, arrives or grows without one of these. */
export const limits = {
  /** One data-plane frame: 2,048 rows of hidden 7,168 in bf16 is 29 MB; more arrives as several frames. */
  frameBytesMax: 64 * 1024 * 1024,
  /** Rows of one frame: a prefill chunk. */
  frameRowsMax: 4096,
  /** Unanswered dispatch frames one home may have on a link: two micro-batches of one step, and a margin. */
  framesInFlightMax: 8,
  /** Bytes a link may hold unsent before `send` answers false. */
  linkPendingBytesMax: 128 * 1024 * 1024,
  /** A row that has not come back by then fails its request. */
  rowDeadlineMs: 30_000,
  /** HTTP body: a 128k-token prompt in UTF-8 with JSON escapes. */
  bodyBytesMax: 4 * 1024 * 1024,
  /** Requests admitted and not finished, and requests waiting beyond them. */
  requestsRunningMax: 256,
  requestsWaitingMax: 512,
  /** Messages of one chat request. */
  messagesMax: 2048,
  /** `n` of one request, `top_logprobs`, stop strings and their length, logit_bias entries: what OpenAI allows. */
  choicesMax: 16,
  topLogprobsMax: 20,
  stopStringsMax: 16,
  stopStringLengthMax: 256,
  logitBiasMax: 1024,
  /** Prompts of one /v1/completions request. */
  promptsMax: 64,
  /** JSON header of a safetensors file: the largest published one is under 20 MB; the format allows 100 MB. */
  safetensorsHeaderBytesMax: 100 * 1024 * 1024,
  /** config.json and its kind. */
  configBytesMax: 16 * 1024 * 1024,
  tokenizerBytesMax: 128 * 1024 * 1024,
  /** A plan file: 61 layers x 512 experts x a few replicas as JSON. */
  planBytesMax: 64 * 1024 * 1024,
  nodesMax: 64,
  workersMax: 512,
  expertsMax: 4096,
  topKMax: 32,
} as const;
