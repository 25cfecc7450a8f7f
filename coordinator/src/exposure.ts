import { reachOf } from '@switchyard/proto';
import type { Config } from './config.ts';

/** What a coordinator with these options leaves to whoever can reach it: a line for each, naming the option that would close it. */
export function exposures({
  listen,
  control,
  tokenFile,
  tlsCert,
  tlsCa,
  apiKeyFile,
}: Pick<Config, 'listen' | 'control' | 'tokenFile' | 'tlsCert' | 'tlsCa' | 'apiKeyFile'>): string[] {
  const found: string[] = [];
  const reach = reachOf(control);
  // A certificate that our authority signed is as good as a token.
  if (tokenFile === null && tlsCa === null && reach !== 'files') {
    const whose = reach === 'network' ? 'any worker' : 'a worker of any user of this machine';
    found.push(`--control ${control} takes ${whose}: give it a --token-file`);
  }
  if (tokenFile !== null && tlsCert === null && reach === 'network')
    found.push(
      `--control ${control} has no TLS: workers send the token readable; give it --tls-cert and --tls-key, or a network of its own`,
    );
  if (apiKeyFile === null && reachOf(listen) === 'network') found.push(`--listen ${listen} answers anybody: give it an --api-key-file`);
  return found;
}
