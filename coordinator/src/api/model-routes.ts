import { limits, promisesSameBits, SwitchyardError } from '@switchyard/proto';
import type { Exchange } from './exchange.ts';
import { quoted } from './fields.ts';
import type { Service } from './service.ts';

/** GET /v1/models */
export function models(service: Service): Record<string, unknown> {
  return { object: 'list', data: [modelCard(service)] };
}

/** GET /v1/models/{id} */
export function oneModel(service: Service, { parameter }: Exchange): Record<string, unknown> {
  checkModel(service, parameter);
  return modelCard(service);
}

/** @throws SwitchyardError `model_not_found` */
export function checkModel({ modelId }: Service, asked: string): void {
  if (asked !== modelId)
    throw new SwitchyardError('model_not_found', `model ${quoted(asked)} is not served here; ${quoted(modelId)} is`, { param: 'model' });
}

/** A model as clients list it. */
function modelCard(service: Service): Record<string, unknown> {
  // Left out where it is not known: what clients count with is a number.
  const contextMax = service.contextMax() ?? undefined;
  return {
    id: service.modelId,
    object: 'model',
    created: service.createdAt,
    owned_by: 'switchyard',
    root: service.modelId,
    parent: null,
    max_model_len: contextMax,
    meta: { n_ctx_train: contextMax, n_vocab: service.model.vocab },
    numeric_class: service.numericClass,
    exact: promisesSameBits(service.numericClass),
    limits: {
      body_bytes: service.config.bodyBytesMax,
      choices: Math.min(limits.choicesMax, service.model.sequencesMax),
      top_logprobs: limits.topLogprobsMax,
    },
  };
}
