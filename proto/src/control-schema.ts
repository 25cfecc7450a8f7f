/**
 * protos/control.proto as data: field numbers and wire types of every message, checked against the TypeScript types by the compiler and against the .proto by a
 * test. The codec in `message-codec.ts` needs nothing else, so no code is generated.
 */
import type {
  Assign,
  Cancel,
  EngineConfig,
  Failed,
  FromWorker,
  Hello,
  LinkStats,
  Peer,
  Peers,
  Progress,
  PromptLogprobs,
  Ready,
  Refuse,
  RequestError,
  Routing,
  Sampling,
  Stats,
  Stop,
  Submit,
  Tokens,
  TopLogprobs,
  ToWorker,
  Trace,
  TraceRows,
  Traffic,
} from './control-messages.ts';
import { type MessageSchema, message, type UnionSchema } from './message-codec.ts';

const hello = message<Hello>('Hello', {
  protocolVersion: [1, 'uint32'],
  name: [2, 'string'],
  node: [3, 'string'],
  pid: [4, 'uint32'],
  dataAddresses: [5, 'string[]'],
  device: [7, 'string'],
  softwareVersion: [8, 'string'],
  memories: [9, 'string[]'],
});

const refuse = message<Refuse>('Refuse', { code: [1, 'string'], message: [2, 'string'] });

const engineConfig = message<EngineConfig>('EngineConfig', {
  numericClass: [1, 'string'],
  expertDtype: [2, 'string'],
  denseDtype: [3, 'string'],
  sumMode: [4, 'string'],
  maxContext: [5, 'uint32'],
  kvBlocks: [6, 'uint32'],
  kvBytes: [7, 'uint64'],
  maxBatchRows: [8, 'uint32'],
  maxSequences: [9, 'uint32'],
  prefixCache: [10, 'bool'],
  rowDeadlineMs: [11, 'uint32'],
  lossy: [16, 'string'],
  replayRouting: [12, 'string'],
  draftMax: [13, 'uint32'],
});

const assign = message<Assign>('Assign', {
  worker: [1, 'uint32'],
  epoch: [2, 'uint32'],
  modelDir: [3, 'string'],
  plan: [4, 'bytes'],
  engine: [5, engineConfig],
});

const peer = message<Peer>('Peer', { worker: [1, 'uint32'], name: [2, 'string'], node: [3, 'string'], dataAddresses: [4, 'string[]'] });
const peers = message<Peers>('Peers', { epoch: [1, 'uint32'], peers: [2, [peer]] });

const progress = message<Progress>('Progress', { epoch: [1, 'uint32'], done: [2, 'uint64'], total: [3, 'uint64'], what: [4, 'string'] });
const ready = message<Ready>('Ready', {
  epoch: [1, 'uint32'],
  residentBytes: [2, 'uint64'],
  kvBlocks: [3, 'uint32'],
  weightsHash: [4, 'u64'],
  numericClass: [5, 'string'],
});
const failed = message<Failed>('Failed', { epoch: [1, 'uint32'], code: [2, 'string'], message: [3, 'string'] });

const sampling = message<Sampling>('Sampling', {
  temperature: [1, 'double'],
  topP: [2, 'double'],
  topK: [3, 'uint32'],
  minP: [4, 'double'],
  repetitionPenalty: [5, 'double'],
  presencePenalty: [6, 'double'],
  frequencyPenalty: [7, 'double'],
  seed: [8, 'u64'],
  biasToken: [9, 'uint32[]'],
  biasValue: [10, 'float[]'],
});

const submit = message<Submit>('Submit', {
  request: [1, 'uint64'],
  prompt: [2, 'uint32[]'],
  maxTokens: [3, 'uint32'],
  sampling: [4, sampling],
  stopTokens: [5, 'uint32[]'],
  logprobs: [6, 'uint32'],
  wantLogprob: [7, 'bool'],
  promptLogprobs: [8, 'bool'],
  tenant: [9, 'string'],
  domain: [10, 'string'],
  minTokens: [12, 'uint32'],
  reportRouting: [15, 'bool'],
  replaySequence: [14, 'uint32'],
  prediction: [16, 'uint32[]'],
});

const cancel = message<Cancel>('Cancel', { request: [1, 'uint64'] });
const trace = message<Trace>('Trace', { on: [1, 'bool'] });
const stop = message<Stop>('Stop', { graceMs: [1, 'uint32'] });

const topLogprobs = message<TopLogprobs>('TopLogprobs', { token: [1, 'uint32[]'], logprob: [2, 'float[]'] });
const requestError = message<RequestError>('RequestError', { code: [1, 'string'], message: [2, 'string'] });
const promptLogprobs = message<PromptLogprobs>('PromptLogprobs', {
  request: [1, 'uint64'],
  logprob: [2, 'float[]'],
  top: [3, [topLogprobs]],
});

const routing = message<Routing>('Routing', { request: [1, 'uint64'], sampled: [2, 'uint64'], held: [3, 'uint64[]'] });
const traffic = message<Traffic>('Traffic', {
  rows: [1, 'uint64'],
  remoteNodes: [2, 'uint64'],
  visits: [3, 'uint64'],
  homeVisits: [4, 'uint64'],
  interNodeBytes: [5, 'double'],
  intraNodeBytes: [6, 'double'],
  routing: [7, routing],
});

const tokens = message<Tokens>('Tokens', {
  request: [1, 'uint64[]'],
  token: [2, 'uint32[]'],
  finish: [3, 'uint32[]'],
  logprob: [4, 'float[]'],
  top: [5, [topLogprobs]],
  errors: [6, [requestError]],
  cachedTokens: [7, 'uint32[]'],
  prompt: [8, [promptLogprobs]],
  traffic: [9, [traffic]],
  routing: [10, [routing]],
  queuedUs: [11, 'uint32[]'],
});

const linkStats = message<LinkStats>('LinkStats', {
  peer: [1, 'uint32'],
  bytesSent: [2, 'uint64'],
  bytesReceived: [3, 'uint64'],
  framesSent: [4, 'uint64'],
  transport: [5, 'string'],
  roundTripSeconds: [6, 'double'],
  roundTrips: [7, 'uint64'],
});

const stats = message<Stats>('Stats', {
  steps: [1, 'uint64'],
  running: [2, 'uint32'],
  waiting: [3, 'uint32'],
  kvBlocksUsed: [4, 'uint32'],
  kvBlocks: [5, 'uint32'],
  lastStepAgeMs: [6, 'double'],
  workPending: [7, 'bool'],
  promptTokens: [8, 'uint64'],
  generatedTokens: [9, 'uint64'],
  prefixQueries: [10, 'uint64'],
  prefixHits: [11, 'uint64'],
  preemptions: [12, 'uint64'],
  links: [13, [linkStats]],
  seconds: [14, 'double[]'],
  rowsDispatched: [15, 'uint64'],
  remoteNodesVisited: [16, 'uint64'],
  expertTokens: [17, 'uint64[]'],
  residentBytes: [18, 'uint64'],
  awakeSeconds: [19, 'double'],
  draftTokens: [20, 'uint64'],
  draftTokensAccepted: [21, 'uint64'],
  waitingForPrefix: [22, 'uint32'],
});

const traceRows = message<TraceRows>('TraceRows', {
  request: [1, 'uint64[]'],
  position: [2, 'uint32[]'],
  generated: [3, 'bool[]'],
  experts: [4, 'bytes'],
});

export const fromWorkerSchema: UnionSchema<FromWorker> = {
  name: 'FromWorker',
  members: {
    hello: [1, hello],
    progress: [2, progress],
    ready: [3, ready],
    tokens: [4, tokens],
    stats: [5, stats],
    failed: [6, failed],
    trace: [7, traceRows],
  },
};

export const toWorkerSchema: UnionSchema<ToWorker> = {
  name: 'ToWorker',
  members: {
    assign: [1, assign],
    refuse: [2, refuse],
    peers: [3, peers],
    submit: [4, submit],
    cancel: [5, cancel],
    trace: [6, trace],
    stop: [7, stop],
  },
};

/** Every message that is not one of the two unions, for the test that compares this file with the .proto. */
export const controlSchemas: readonly MessageSchema[] = [
  hello,
  refuse,
  engineConfig,
  assign,
  peer,
  peers,
  progress,
  ready,
  failed,
  sampling,
  submit,
  cancel,
  trace,
  stop,
  topLogprobs,
  requestError,
  promptLogprobs,
  routing,
  traffic,
  tokens,
  linkStats,
  stats,
  traceRows,
];
