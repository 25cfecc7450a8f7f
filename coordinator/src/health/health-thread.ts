/** A thread that answers /health/* on a port of its own from shared memory: also while the main thread is busy, and then tells so. */
import { createServer } from 'node:http';
import { parentPort, workerData } from 'node:worker_threads';
import { HealthCounters, type HealthThresholds, healthQuestion, judgeHealth, steadyMs } from './health-counters.ts';

export interface HealthThreadData {
  memory: SharedArrayBuffer;
  host: string;
  port: number;
  thresholds: HealthThresholds;
}

const { memory, host, port, thresholds } = workerData as HealthThreadData;
const counters = new HealthCounters(memory);

/** Sockets open at once, and how long one may take to say what it asks: those that say nothing must not keep a probe out for longer than it waits. */
const socketsMax = 64;
const patience = { headersTimeout: 2_000, requestTimeout: 2_000, connectionsCheckingInterval: 500 };

const server = createServer({ maxHeaderSize: 8 * 1024, ...patience }, (request, response) => {
  const question = healthQuestion((request.url ?? '').split('?')[0]);
  const { status, body } =
    question === null ? { status: 404, body: { status: 'unknown path' } } : judgeHealth(question, counters.read(), steadyMs(), thresholds);
  response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
  response.end(request.method === 'HEAD' ? undefined : JSON.stringify(body));
});
server.maxConnections = socketsMax;
server.on('error', (error) => parentPort!.postMessage({ error: error.message }));
server.listen(port, host, () => parentPort!.postMessage({ port: (server.address() as { port: number }).port }));
