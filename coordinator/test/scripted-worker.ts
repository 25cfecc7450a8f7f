import {
  attachToCoordinator,
  type CoordinatorStream,
  type FromWorker,
  PROTOCOL_VERSION,
  type Ready,
  type Submit,
  type Tokens,
  type ToWorker,
} from '@switchyard/proto';

/** A worker that does what a test says, over the real control stream: for what a real one cannot be made to do on demand. */
export class ScriptedWorker {
  readonly received: ToWorker[] = [];
  /** Of what it was assigned last. */
  epoch = 0;
  readonly stream: CoordinatorStream;
  #wake: () => void = () => {};

  private constructor(stream: CoordinatorStream) {
    this.stream = stream;
    stream.onMessage((message) => {
      if (message.type === 'assign') this.epoch = message.epoch;
      this.received.push(message);
      this.#wake();
    });
    void stream.closed.then(() => this.#wake());
  }

  static async attach(address: string): Promise<ScriptedWorker> {
    return new ScriptedWorker(await attachToCoordinator(address, { token: '', tls: null }));
  }

  /** Attaches, says hello and takes its assignment. */
  static async join(address: string, name: string, node?: string, memories?: string[], dataAddress?: string): Promise<ScriptedWorker> {
    const worker = await ScriptedWorker.attach(address);
    worker.hello(name, node, memories, dataAddress);
    await worker.next('assign');
    return worker;
  }

  send(message: FromWorker): void {
    this.stream.send(message);
  }

  /** With memory that nobody else has, unless told otherwise. */
  hello(name: string, node = 'n0', memories: string[] = [], dataAddress = `uds:///${name}`): void {
    this.send({
      type: 'hello',
      protocolVersion: PROTOCOL_VERSION,
      name,
      node,
      pid: 1,
      dataAddresses: [dataAddress],
      device: '{}',
      softwareVersion: '0',
      memories,
    });
  }

  ready(said: Partial<Ready> = {}): void {
    const { epoch } = this;
    const loaded = { epoch, residentBytes: 1, kvBlocks: 64, weightsHash: 0xfedcba9876543210n, numericClass: 'bf16' };
    this.send({ type: 'ready', ...loaded, ...said });
  }

  tokens(columns: Partial<Tokens>): void {
    const none = {
      request: [],
      token: [],
      finish: [],
      logprob: [],
      top: [],
      errors: [],
      cachedTokens: [],
      queuedUs: [],
      prompt: [],
      traffic: [],
      routing: [],
    };
    this.send({ type: 'tokens', ...none, ...columns });
  }

  /** The first message of the type that has not been taken yet. */
  async next<T extends ToWorker['type']>(type: T): Promise<Extract<ToWorker, { type: T }>> {
    for (;;) {
      const at = this.received.findIndex((message) => message.type === type);
      if (at >= 0) return this.received.splice(at, 1)[0] as Extract<ToWorker, { type: T }>;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async submits(count: number): Promise<Submit[]> {
    const submits: Submit[] = [];
    while (submits.length < count) submits.push(await this.next('submit'));
    return submits;
  }
}
