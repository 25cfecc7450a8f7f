import { type Frame, MemoryNetwork, type Plan, parseFrame, type Transport } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { toyModel, toyNative } from '../engine/toy-model.ts';
import { type Answer, InProcessCluster, submitOf } from '../in-process-cluster.ts';

const shape = { experts: 8, topK: 3, moeLayers: 3, kvBlocks: 64, maxRows: 64, maxSequences: 8, maxLogitRows: 16, maxContext: 256 };
const prompts = [5, 40, 90].map((first) => Array.from({ length: 30 }, (_, i) => (first + 7 * i) % 97));

/** Expert e of every layer on the workers `holders(e)`. */
function planOf(nodes: number[], holders: (expert: number) => number[]): Plan {
  const layer = Array.from({ length: shape.experts }, (_, e) => holders(e));
  return {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 2, 3], experts: shape.experts },
    workers: nodes.map((node, w) => ({ name: `w${w}`, node })),
    replicas: Array.from({ length: shape.moeLayers }, () => layer),
    provenance: null,
  };
}

function start(
  plan: Plan,
  network: Transport = new MemoryNetwork(),
  rowDeadlineMs = 20_000,
  absent: readonly number[] = [],
): Promise<InProcessCluster> {
  const models = plan.workers.map((_, w) => {
    const hosted = plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders.includes(w) ? [e] : [])));
    return toyModel(shape, plan.workers.length === 1 ? null : hosted);
  });
  const { maxRows: maxBatchRows, maxSequences, maxLogitRows } = shape;
  const addressOf = (w: number) => `memory://w${w}`;
  return InProcessCluster.start({
    native: toyNative,
    models,
    plan,
    transport: network,
    addressOf,
    maxBatchRows,
    maxSequences,
    maxLogitRows,
    prefixCache: false,
    draftMax: 0,
    rowDeadlineMs,
    absent,
  });
}

/** The same transport, with an eye on every frame of the links that are dialled, by who dialled whom. */
function watched(transport: Transport, see: (dialler: number, address: string, frame: Frame) => void): Transport {
  return {
    scheme: transport.scheme,
    listen: (address, options, accept) => transport.listen(address, options, accept),
    dial: async (address, options) => {
      const link = await transport.dial(address, options);
      const send = link.send.bind(link);
      const onFrame = link.onFrame.bind(link);
      let dialler = -1;
      link.send = (bytes) => {
        const frame = parseFrame(bytes);
        dialler = frame.source;
        see(dialler, address, frame);
        return send(bytes);
      };
      link.onFrame = (receive) =>
        onFrame((bytes) => {
          see(dialler, address, parseFrame(bytes));
          receive(bytes);
        });
      return link;
    },
  };
}

async function answersOf(cluster: InProcessCluster, home: number): Promise<Answer[]> {
  const answers = await Promise.all(prompts.map((prompt) => cluster.run(home, submitOf(prompt, { maxTokens: 20, wantLogprob: true }))));
  await cluster.close();
  return answers;
}

const twoByTwo = planOf([0, 0, 1, 1], (e) => [e >> 1]);

describe('the node gateway', () => {
  test('a row crosses to a remote node once, and one row comes back', async () => {
    const rowsBetweenNodes = { sent: 0, returned: 0 };
    const cluster = await start(
      twoByTwo,
      watched(new MemoryNetwork(), (dialler, address, frame) => {
        if (dialler !== 0 || !/w[23]$/.test(address)) return;
        if (frame.kind === 'dispatch') rowsBetweenNodes.sent += frame.rows;
        if (frame.kind === 'combine') rowsBetweenNodes.returned += frame.rows;
      }),
    );
    const home = cluster.workers[0];
    const answers = await Promise.all(prompts.map((prompt) => cluster.run(0, submitOf(prompt, { maxTokens: 20 }))));
    expect(answers.map(({ error }) => error)).toEqual([null, null, null]);
    const { remoteNodesVisited, rowsDispatched } = home.counters;
    expect(rowsBetweenNodes).toEqual({ sent: remoteNodesVisited, returned: remoteNodesVisited });
    // Three experts of eight: many rows have experts on both workers of the other node, and would have crossed twice.
    const pairs = [2, 3].reduce((sum, w) => sum + cluster.workers[w].counters.expertTokens.reduce((a, b) => a + b), 0);
    expect(pairs).toBeGreaterThan(1.2 * remoteNodesVisited);
    expect(remoteNodesVisited).toBeLessThanOrEqual(rowsDispatched);
    await cluster.close();
  });

  test('the answer does not depend on how workers form nodes, nor on which replica a gateway takes', async () => {
    const alone = await answersOf(await start(planOf([0], () => [0])), 0);
    for (const nodes of [
      [0, 0, 0, 0],
      [0, 1, 2, 3],
      [0, 0, 1, 1],
      [0, 1, 1, 1],
    ])
      for (const holders of [(e: number) => [e >> 1], (e: number) => [e % 4, (e % 4) + 1].filter((w) => w < 4)]) {
        const plan = planOf(nodes, (e) => holders(e).sort((a, b) => a - b));
        for (const home of [0, 3]) expect(await answersOf(await start(plan), home)).toEqual(alone);
      }
  });

  test('every row and pair is on the bill of its sequence', async () => {
    const cluster = await start(twoByTwo);
    const { engine, counters } = cluster.workers[1];
    const traffic: {
      rows: number;
      remoteNodes: number;
      visits: number;
      homeVisits: number;
      interNodeBytes: number;
      intraNodeBytes: number;
    }[] = [];
    const submit = engine.submit.bind(engine);
    engine.submit = (request) => {
      submit(request);
      traffic.push((engine as unknown as { live: Map<number, { traffic: (typeof traffic)[0] }> }).live.get(request.request)!.traffic);
    };
    await Promise.all(prompts.map((prompt) => cluster.run(1, submitOf(prompt, { maxTokens: 5 }))));
    const total = (field: keyof (typeof traffic)[0]) => traffic.reduce((sum, bill) => sum + bill[field], 0);
    expect(total('rows')).toBe(counters.rowsDispatched);
    expect(total('remoteNodes')).toBe(counters.remoteNodesVisited);
    expect(total('visits')).toBe(counters.rowsDispatched * shape.topK);
    const onNode0 = [0, 1].reduce((sum, w) => sum + cluster.workers[w].counters.expertTokens.reduce((a, b) => a + b), 0);
    expect(total('homeVisits')).toBe(onNode0);
    const sentAndReceived = (from: number[]) =>
      cluster.workers[1].exchange
        .stats()
        .filter(({ peer }) => from.includes(peer))
        .reduce((sum, { bytesSent, bytesReceived }) => sum + bytesSent + bytesReceived, 0);
    expect(total('interNodeBytes')).toBeCloseTo(sentAndReceived([2, 3]), 3);
    expect(total('intraNodeBytes')).toBeCloseTo(sentAndReceived([0]), 3);
    await cluster.close();
  });

  test('a neighbour that dies fails the rows that need it, named, and they work again once it is back', async () => {
    const network = new MemoryNetwork();
    const cluster = await start(twoByTwo, network);
    const submits = Array.from({ length: 24 }, (_, i) => submitOf([i], { maxTokens: 1 }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    await cluster.kill(3);
    network.sever('memory://w3');
    const second = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    const failed = second.filter(({ error }) => error !== null);
    expect(failed.length).toBeGreaterThan(0);
    for (const { error } of failed) expect(error).toMatchObject({ code: 'expert_unavailable', message: expect.stringContaining('w3') });
    second.forEach((answer, i) => {
      if (answer.error === null) expect(answer).toEqual(expected[i]);
    });
    await cluster.revive(3);
    expect(await Promise.all(submits.map((submit) => cluster.run(0, submit)))).toEqual(expected);
    await cluster.close();
  });

  test('a neighbour that stands still fails the rows that need it at the deadline, and no others', async () => {
    const network = new MemoryNetwork();
    const cluster = await start(twoByTwo, network, 200);
    const submits = Array.from({ length: 24 }, (_, i) => submitOf([i], { maxTokens: 1 }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    network.stall('memory://w3', true);
    const answers = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    const failed = answers.filter(({ error }) => error !== null);
    expect(failed.length).toBeGreaterThan(0);
    for (const { error } of failed) {
      expect(['deadline_exceeded', 'expert_unavailable']).toContain(error!.code);
      expect(error!.message).toContain('w3');
    }
    answers.forEach((answer, i) => {
      if (answer.error === null) expect(answer).toEqual(expected[i]);
    });
    expect(failed.length).toBeLessThan(submits.length);
    network.stall('memory://w3', false);
    await cluster.close();
  });

  test('a neighbour that was never there is not waited for', async () => {
    // Experts of w3 live on w1 too.
    const plan = planOf([0, 0, 1, 1], (e) => (e >> 1 === 3 ? [1, 3] : [e >> 1]));
    const expected = await answersOf(await start(plan), 0);
    const cluster = await start(plan, new MemoryNetwork(), 20_000, [3]);
    expect(await answersOf(cluster, 0)).toEqual(expected);
  });

  test('rows that a gateway cannot pass on go straight to where their experts are', async () => {
    let severed = false;
    let refused = 0;
    const network = watched(new MemoryNetwork(), (dialler, address, frame) => {
      if (!severed || dialler !== 2 || !address.endsWith('w3') || frame.kind !== 'dispatch') return;
      refused++;
      throw new Error('severed');
    });
    const cluster = await start(twoByTwo, network);
    const submits = Array.from({ length: 24 }, (_, i) => submitOf([i, i + 1], { maxTokens: 3, wantLogprob: true }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    severed = true;
    expect(await Promise.all(submits.map((submit) => cluster.run(0, submit)))).toEqual(expected);
    expect(refused).toBeGreaterThan(0);
    await cluster.close();
  });

  test('rows that were on their way to a worker that died are computed by replicas', async () => {
    const network = new MemoryNetwork();
    const plan = planOf([0, 0, 1, 2], (e) => (e >> 1 >= 2 ? [2, 3] : [e >> 1]));
    const cluster = await start(plan, network);
    const { exchange } = cluster.workers[0];
    const submits = Array.from({ length: 24 }, (_, i) => submitOf([i, i + 1], { maxTokens: 3, wantLogprob: true }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    const sentTo = (worker: number) => exchange.stats().find(({ peer }) => peer === worker)!;
    const asked = sentTo(2).framesSent > 0 ? 2 : 3;
    network.stall(`memory://w${asked}`, true);
    const answers = submits.map((submit) => cluster.run(0, submit));
    while (sentTo(asked).framesSent === sentTo(asked).roundTrips) await new Promise((resolve) => setImmediate(resolve));
    network.sever(`memory://w${asked}`);
    await cluster.kill(asked);
    expect(await Promise.all(answers)).toEqual(expected);
    await cluster.close();
  });

  test('a worker that is there but serves no model is passed over for replicas', async () => {
    const plan = planOf([0, 0, 1, 1], (e) => (e >> 1 >= 2 ? [2, 3] : [e >> 1]));
    const cluster = await start(plan);
    const submits = Array.from({ length: 24 }, (_, i) => submitOf([i, i + 1], { maxTokens: 3, wantLogprob: true }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    for (const idle of [2, 3]) {
      cluster.workers[idle].server.serve(null);
      expect(await Promise.all(submits.map((submit) => cluster.run(0, submit)))).toEqual(expected);
      cluster.workers[idle].serve();
    }
    await cluster.close();
  });
});
