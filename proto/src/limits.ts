/** Every bound of the system, with its reason. Nothing queues, arrives or grows without one of these. */
export const limits = {
  /** One data-plane frame: 2,048 rows of hidden 7,168 in bf16 is 29 MB; more arrives as several frames. */
  frameBytesMax: 64 * 1024 * 1024,
  /** Rows of one frame: a prefill chunk. */
  frameRowsMax: 4096,
  /** Values of one row: the largest published models have 16,384. */
  hiddenMax: 65_536,
  /** UTF-8 bytes of an error frame's message; longer ones are cut. */
  errorMessageBytesMax: 1024,
  /**
   * Unanswered dispatch frames on a link: one of each lane of a home, and a margin. What a gateway relays for all homes may be more; whoever has more holds it back, and
   * whoever sends more is cut off.
   */
  framesInFlightMax: 8,
  /**
   * Bytes of dispatch frames that a worker has taken and not answered, of all its links together: sixteen of the largest. Homes on other nodes that send large ones
   * are slowed down beyond it.
   */
  unansweredBytesMax: 1024 * 1024 * 1024,
  /** Bytes a link may hold unsent before `send` answers false. */
  linkPendingBytesMax: 128 * 1024 * 1024,
  /** Frames that arrive on a link before anyone receives them, or while who does pauses; the peer is slowed down beyond it. */
  linkEarlyBytesMax: 4 * 1024 * 1024,
  /**
   * HTTP/2 flow-control window of a gRPC link, per direction: what may be on its way unread, and the largest DATA frame. 25 Gb/s for a millisecond is 3 MB; more
   * only makes caches colder.
   */
  grpcWindowBytes: 4 * 1024 * 1024,
  /** Headers of a gRPC link's stream: version and token. */
  grpcMetadataBytesMax: 16 * 1024,
  /** Shared memory of a link, per direction. Small enough to stay in a core's cache, which is what makes it fast; larger frames pass through in pieces. */
  sharedRingBytes: 1024 * 1024,
  /** A NATS message of a link, where the server's max_payload (1 MiB unless configured) allows it: larger ones only make others wait longer. */
  natsMessageBytes: 256 * 1024,
  /** Bytes of a NATS link on their way unread, per direction. A server cuts off who lets 64 MiB pile up; several links share it. */
  natsWindowBytes: 2 * 1024 * 1024,
  /** A NATS link says that it lives this often, and takes a peer for dead that missed so many. */
  natsHeartbeatMs: 2_000,
  natsHeartbeatsMissedMax: 7,
  /**
   * How long after a small frame a worker's event loop waits awake for the next one: an exchange of one layer between machines close by. Longer ones are not
   * worth a core's attention.
   */
  lingerMs: 1,
  /** Frames after which it does: behind a larger one lies a computation beside which a wake-up is nothing. */
  lingerFrameBytesMax: 64 * 1024,
  /** A handshake frame: magic, version, scheme, nonce, proof, or a refusal with its message. */
  handshakeBytesMax: 512,
  /** From dial to an accepted link, and how long an accepted socket may stay silent. */
  dialTimeoutMs: 10_000,
  /** How long `close` waits for the peer before it cuts the connection. */
  closeTimeoutMs: 5_000,
  /** A silent connection is probed after the first, and given up after the second (gRPC) or ten probes a second apart (TCP, by Node). */
  keepaliveTimeMs: 10_000,
  keepaliveTimeoutMs: 5_000,
  /** Incoming links of one listener: two of every other worker, and as many again while peers reconnect and their old links have not ended. */
  linksPerListenerMax: 4096,
  /** Addresses one worker announces. */
  addressesMax: 16,
  /** A file of keys, a token or a certificate. */
  secretFileBytesMax: 1024 * 1024,
  /** A Unix socket path: sun_path is 108 bytes with its terminator. */
  socketPathBytesMax: 107,
  /** One control message: an Assign carries a plan. */
  controlMessageBytesMax: 65 * 1024 * 1024,
  /**
   * Messages inside one control message. Most has `Tokens` for a prompt that is echoed with log-probabilities: one each token, of a context of 2^20, and a margin for
   * what ends beside it; `Peers` and `Stats` have one each worker. An empty one is two bytes on the wire and some 200 in memory.
   */
  nestedMessagesMax: 1_100_000,
  /** The first message of a worker, before anybody knows who it is: names, `addressesMax` addresses, memories, and its device in JSON, 1 KiB or two as a rule. */
  helloBytesMax: 16 * 1024,
  /** Bytes a control stream may hold unsent before `send` answers false; one message more than that closes it, for its sender does not wait. */
  controlPendingBytesMax: 16 * 1024 * 1024,
  /** A trace file is closed at the first and a new one begun; of one recording the newest are kept, up to the second. */
  traceFileBytesMax: 256 * 1024 * 1024,
  traceFilesMax: 16,
  /** Trace rows waiting for the disk; rows beyond it are dropped and counted, serving never waits. */
  tracePendingBytesMax: 8 * 1024 * 1024,
  /** Sequences named in one trace file's `.sequences.jsonl`: the oldest lose their domain, not their rows. */
  traceSequencesMax: 100_000,
  /** A trace whose routing is replayed is held in memory by each worker: ten million tokens of 24 layers and top-4. */
  replayTraceBytesMax: 1024 * 1024 * 1024,
  /** A row that has not come back by then goes to another worker that holds its experts; where there is none its request fails. */
  rowDeadlineMs: 30_000,
  /** Tokens that a stream may guess for one step: what comes later is seldom right, and its rows cost what prompts' rows cost. */
  draftMax: 32,
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
  /** Names of models and workers. */
  nameLengthMax: 256,
  /** MoE layers of one model: the deepest published one has fewer than 100. */
  moeLayersMax: 1024,
  /** Workers of one plan, each on a node of its own if need be; a worker has a link to every other. The widest published expert parallelism has 320. */
  workersMax: 1024,
  nodesMax: 1024,
  expertsMax: 4096,
  /** Experts of all layers together; each is described before any is loaded. The most of a published one is about 31,000. */
  modelExpertsMax: 262_144,
  topKMax: 32,
} as const;
