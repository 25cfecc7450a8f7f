import { limits } from '@switchyard/proto';

/** Bounds of the coordinator alone, with their reasons; those it shares with workers are in proto/src/limits.ts. */
export const bounds = {
  /** Sequences of one request, prompts x n: one client must not fill the running queue. */
  sequencesPerRequestMax: 128,
  /** Request line and headers together: a key, a few trace headers, cookies of a proxy. */
  headerBytesMax: 16 * 1024,
  /** Bodies of all requests together and the values of their JSON, while they are read and turned into ids: 64 of the longest, as far as they are text. */
  bodiesBytesMax: 256 * 1024 * 1024,
  /**
   * Answers of all requests together that are put together to be sent whole, or held for slow readers, until their clients have taken them, and the ids of their
   * prompts: four of the longest.
   * What a socket holds of each (`socketPendingBytesMax`) is not counted, so that short answers are never refused, nor is as much of each request's ids: these
   * leave the answer its part, and once they are in memory nothing that is short fails half way. Of several tenants one may have three quarters.
   */
  answersBytesMax: 512 * 1024 * 1024,
  /** Sockets open at once. */
  connectionsMax: 4096,
  /**
   * Bytes of an answer that its client has not taken, and the largest piece that is written at once: a reader must take so much within `readerStallMs`, a
   * kilobyte a second. Beyond it text is held back and joined; see `heldBytesMax`.
   */
  socketPendingBytesMax: 64 * 1024,
  /** Events held back for a slow reader, characters: 40,000 tokens without log-probabilities. Those of a prompt count against `answersBytesMax` alone. */
  heldBytesMax: 8 * 1024 * 1024,
  /** Characters of a long answer that are put together before others are served: two milliseconds' work where they are log-probabilities. */
  charsOfTurn: 64 * 1024,
  /** A reader that takes nothing for so long has gone. */
  readerStallMs: 60_000,
  /** Characters of an answer that is sent whole: 128k tokens with 20 log-probabilities each take 80 MiB, and a string of JavaScript ends at 512 MiB. */
  collectedCharsMax: 128 * 1024 * 1024,
  /** Idle keep-alive connections; longer than the usual load balancer's 60 s, so that it closes first. */
  keepAliveMs: 75_000,
  /** A client that was refused because its bytes are not HTTP, or come too slowly, has so long to read why and to close its end. */
  refusedSocketMs: 1_000,
  /** Nesting of JSON in tools and arguments, which are walked recursively. */
  jsonDepthMax: 64,
  /** Tools of one request: what OpenAI allows. */
  toolsMax: 128,
  stopTokensMax: 128,
  /** Least and most of the fields that sample, in requests and in generation_config.json: OpenAI's, and of what is not OpenAI's what means something. */
  sampling: {
    temperature: [0, 2],
    topP: [0, 1],
    /** -1 is "off" for vLLM's clients. */
    topK: [-1, 2 ** 31],
    minP: [0, 1],
    repetitionPenalty: [0.01, 10],
  },
  /** A request's text up to this many characters is tokenised in the main thread: 1 ms of prose, 20 ms at worst (one endless word). More goes to a thread. */
  inlineTextChars: 2 * 1024,
  /**
   * It is work of the checkpoint's making all the same, a template with an endless loop, say. What takes so long in the main thread is ended, and that thread does no
   * more of it.
   */
  inlineTextMsMax: 1_000,
  /** A request's text may keep that thread for so long: 4 MB of prose take 6 s. */
  tokenizingMsMax: 30_000,
  /** Requests whose text waits for the tokenising thread. */
  tokenizingQueueMax: 256,
  /** Shorter ones that came later may go first as long as they are no more than so many times as much text: four fifths of the thread are theirs. */
  tokenizingOvertakingMax: 4,
  /** A worker that has refused a sequence for now is not asked again for so long while another may be: as often as workers say how they are. */
  refusalRestMs: 1_000,
  /** One that fails what it is asked: a peer of it that has died is back within seconds as a rule. Each time twice as long, up to what its return may wait for. */
  failureRestMs: 1_000,
  failureRestMsMax: 16_000,
  /** Prompt prefixes whose home is remembered. */
  prefixesRememberedMax: 65_536,
  /** Tokens between two remembered points of a prompt, and points per prompt. */
  prefixStrideTokens: 64,
  prefixPointsMax: 256,
  /** Prompt prefixes, and domains, tenants and pairs of them each, whose routing is remembered: a number per node. */
  prefixStatisticsMax: 16_384,
  homeStatisticsMax: 4096,
  /** Points of a prompt whose routing is remembered: what prompts have in common is at their beginning. */
  prefixStatisticsPointsMax: 16,
  /** Remote nodes per token and layer that a plan can promise: all but its own. */
  remoteNodesMax: limits.nodesMax,
  /** Characters of the header that names homes: proxies take 4 or 8 KiB of headers in all, and a request has up to 128 choices. */
  homesHeaderCharsMax: 2048,
  /** Characters of tenant, domain and request id. */
  nameCharsMax: 128,
  /** Of what a worker says of its device, as JSON, and of one of its addresses. */
  deviceCharsMax: 4096,
  addressCharsMax: 512,
  /** Memories that one worker may tell of. */
  memoriesMax: 1024,
  /** Keys in the key file. */
  apiKeysMax: 4096,
  /** Distinct unknown request fields that are logged once each. */
  unknownFieldsLoggedMax: 256,
  /** A stream that does not say hello. */
  helloTimeoutMs: 10_000,
  /** Workers that are not needed for every expert to be served are introduced to the others this late: a thousand that return to a new coordinator would each have it tell all of all. */
  introductionPauseMs: 50,
  /** Ids that a tokenizer may give, in tables by id: the largest published vocabularies have 2^18. */
  tokenIdsMax: 2 ** 22,
  /** Seconds a client should wait before it tries again. */
  retryAfterSeconds: {
    queue_full: 1,
    not_ready: 2,
    shutting_down: 5,
    worker_lost: 2,
    expert_unavailable: 2,
    deadline_exceeded: 2,
    link_closed: 2,
  },
} as const;
