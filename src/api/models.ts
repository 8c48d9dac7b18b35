/** GET /v1/models and /v1/models/{model}. @module */
import { checkModel, type Service } from './service.ts';

const modelOf = ({ pod }: Service) => ({
  id: pod.model.name,
  object: 'model' as const,
  created: pod.model.created,
  owned_by: 'minipod',
  root: pod.model.name,
  parent: null,
  max_model_len: pod.model.context_length,
});

export const listModels = (service: Service): Response => Response.json({ object: 'list', data: [modelOf(service)] });

export function retrieveModel(service: Service, model: string): Response {
  checkModel(service, model);
  return Response.json(modelOf(service));
}
