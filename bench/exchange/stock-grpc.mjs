// gRPC as it comes: one bidirectional stream of @grpc/grpc-js with every option at its default but the message limits. Enough of a link for `measure.mjs`.
import * as grpc from '@grpc/grpc-js';

const options = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
const path = '/bench.Exchange/Stream';
const asIs = (bytes) => bytes;
const asBuffer = (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);

export const stockGrpc = {
  async listen(_address, _options, accept) {
    const server = new grpc.Server(options);
    server.register(path, (call) => accept(linkOf(call)), asBuffer, asIs, 'bidi');
    const port = await new Promise((resolve, reject) => {
      server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    return { address: `127.0.0.1:${port}` };
  },
  async dial(address) {
    return linkOf(new grpc.Client(address, grpc.credentials.createInsecure(), options).makeBidiStreamRequest(path, asBuffer, asIs));
  },
};

function linkOf(call) {
  call.on('error', () => {}); // the other process ends when the benchmark does
  return {
    send: (frame) => call.write(frame),
    drained: () => new Promise((resolve) => call.once('drain', resolve)),
    onFrame: (receive) => call.on('data', receive),
  };
}
