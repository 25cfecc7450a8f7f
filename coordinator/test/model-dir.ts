import { fileURLToPath } from 'node:url';

/** The bundled model. */
export const modelDir = '/work/shared/models/shunter-16m';
