// Every kernel, by idea. src/model/kernels/kernels.ts types them for the host; scripts/build-kernels.ts holds the two lists against each other.
export { mlaAttention, gqaAttention } from './attention';
export { copyBytes, fillBytes } from './bytes';
export { expRow, logRow } from './elementary';
export { siluMul, addInPlace, embedBf16, embedF32 } from './elementwise';
export { gateSigmoid, gateSoftmax } from './gating';
export { mlaStore, gqaStore } from './kv-store';
export { matmulBf16, matmulF32 } from './matmul';
export { matmulHeadsBf16, matmulHeadsF32 } from './matmul-heads';
export { gatherRows, countExperts, combineRows, combineRowsAt } from './moe';
export { rmsNorm, rmsNormHeads } from './norm';
export { packBf16, packF32, packBf16Transposed, packF32Transposed, widenBf16, widenF16 } from './pack';
export { philoxWords } from './philox';
export { ropeInterleaved, ropeHalves } from './rope';
export { logSumExp, argmaxRow, allFinite } from './row';
export { sampleRow } from './sampling';
export { topLogits } from './selection';
export { setStopWord } from './stop';
export { quantizeInt8, dequantizeInt8, packRowsBf16, unpackRowsBf16 } from './wire';
