import { describe, expect, it } from 'vitest';
import { exposures } from '../../src/process/exposure.ts';

const alone = {
  coordinator: 'unix:/run/c.sock',
  data: ['shm:///run/a.shm', 'uds:///run/a.sock'],
  tokenFile: null,
  tlsCa: null,
  tlsCert: null,
};

describe('a worker warns', () => {
  it.each([
    ['of nothing inside a machine', {}, []],
    ['of nothing on loopback', { coordinator: 'localhost:8001', data: ['tcp://127.0.0.1:4101', 'grpc://[::1]:0'], tokenFile: 't' }, []],
    [
      "of anybody's rows",
      { data: ['shm:///a', 'tcp://0.0.0.0:4101'] },
      ["--data tcp://0.0.0.0:4101 takes anybody's rows: give it a --token-file"],
    ],
    ['of nothing where peers show certificates', { data: ['tcp://0.0.0.0:4101'], tlsCa: 'a', tlsCert: 'c' }, []],
    [
      "of anybody's rows that a broker brings, certificates or not",
      { data: ['nats://broker:4222/a'], tlsCa: 'a', tlsCert: 'c' },
      ['--data nats://broker:4222/a takes the rows of whoever its broker lets in: give it a --token-file'],
    ],
    [
      'of a token that can be read',
      { coordinator: 'head:8001', data: ['grpc://this-host:4101', 'tcp://this-host:4102'], tokenFile: 't' },
      [
        '--coordinator head:8001 is sent the token readable: use TLS (--tls-ca), or a network of its own',
        '--data grpc://this-host:4101 is sent the token readable by peers: use TLS (--tls-cert, --tls-key, --tls-ca), or tcp',
      ],
    ],
    ['of nothing with TLS', { coordinator: 'head:8001', data: ['grpc://this-host:4101'], tokenFile: 't', tlsCa: 'a' }, []],
  ])('%s', (_, changes, told) => {
    expect(exposures({ ...alone, ...changes })).toEqual(told);
  });
});
