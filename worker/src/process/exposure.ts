import { reachOf } from '@switchyard/proto';
import type { WorkerFlags } from './flags.ts';

/** What a worker with these options leaves to whoever is on its network: a line for each, naming the option that would close it. */
export function exposures({
  coordinator,
  data,
  tokenFile,
  tlsCa,
  tlsCert,
}: Pick<WorkerFlags, 'coordinator' | 'data' | 'tokenFile' | 'tlsCa' | 'tlsCert'>): string[] {
  const plain = tlsCa === null && tlsCert === null;
  const found: string[] = [];
  if (tokenFile !== null && plain && reachOf(coordinator) === 'network')
    found.push(`--coordinator ${coordinator} is sent the token readable: use TLS (--tls-ca), or a network of its own`);
  for (const address of data.filter((address) => reachOf(address) === 'network')) {
    // A certificate that our authority signed is as good as a token, where it is asked for: a broker shows its own, and lets in whom it likes.
    const brokered = address.startsWith('nats:');
    const whose = brokered ? 'the rows of whoever its broker lets in' : "anybody's rows";
    if (tokenFile === null && (tlsCa === null || brokered)) found.push(`--data ${address} takes ${whose}: give it a --token-file`);
    // Over other transports the token is proved, not sent.
    if (tokenFile !== null && plain && address.startsWith('grpc:'))
      found.push(`--data ${address} is sent the token readable by peers: use TLS (--tls-cert, --tls-key, --tls-ca), or tcp`);
  }
  return found;
}
