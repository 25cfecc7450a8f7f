import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { readJsonBody } from './body.ts';
import type { Exchange } from './exchange.ts';
import { Fields, typeName } from './fields.ts';
import type { Service } from './service.ts';

/**
 * Lets the operator in: through the owner's socket, or with the admin token. The status shows no prompt, so that an open server shows it to anyone; recording
 * is the operator's alone.
 *
 * @throws SwitchyardError `unauthorized`
 */
export function checkAdmin(service: Service, exchange: Exchange, openWithoutKeys: boolean): void {
  if (isOperator(service, exchange)) return;
  if (openWithoutKeys && service.adminKeys === null && service.apiKeys === null) return;
  throw new SwitchyardError('unauthorized', 'this path needs the admin token (--admin-token-file) or the admin socket (--admin-socket)');
}

export function isOperator({ adminKeys }: Service, { request, local }: Exchange): boolean {
  return local || adminKeys?.tenantOf(request.headers.authorization) != null;
}

/** POST /v1/switchyard/trace {on, file, tenants}: turns the routing trace on or off. */
export async function traceRoute(service: Service, exchange: Exchange): Promise<Record<string, unknown>> {
  const fields = new Fields(await readJsonBody(exchange, service.config.bodyBytesMax));
  const on = fields.flag('on');
  if (on === null) throw fields.invalid('on', 'is missing');
  if (on) {
    const file = fields.text('file', bounds.nameCharsMax);
    if (file === null) throw fields.invalid('file', 'is missing: a name inside the trace folder');
    const tenants = fields.list('tenants', bounds.apiKeysMax);
    for (const tenant of tenants ?? [])
      if (typeof tenant !== 'string') throw fields.invalid('tenants', `has ${typeName(tenant)}; names are needed`);
    const summary = service.trace.start({ file, tenants: tenants as string[] | null });
    service.membership.trace(true);
    service.log.warn({ request: exchange.id, file: summary.file }, 'routing trace on: it reveals prompts');
    return { ...summary };
  }
  service.membership.trace(false);
  const summary = await service.trace.stop();
  service.log.warn({ request: exchange.id }, 'routing trace off');
  return summary === null ? { on: false } : { ...summary };
}
