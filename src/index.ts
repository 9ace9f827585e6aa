/// <reference types="@webgpu/types" preserve="true" />
/** The public API in Node: what browsers have, and what works with files. */
export * from './browser.ts';
export { loadCifar10 } from './data/cifar10.ts';
export { type LabelledImages, loadFashionMnist } from './data/fashion-mnist.ts';
export { ImageFolder } from './data/image-folder.ts';
export {
  type AttackContext,
  type AttackEntry,
  type AttackSettings,
  type PlannedAttack,
  planAttacks,
  registerAttack,
} from './eval/attacks.ts';
export type { AttackSummary, EvaluationSummary } from './eval/metrics.ts';
export { featureMoments, type ImageSource, imagesOf, restore, samplesOf } from './eval/quality.ts';
export { type EvaluationImages, type EvaluationPlan, evaluationConfig, runEvaluation } from './eval/run.ts';
export {
  type EvaluationConfig,
  type EvaluationRecord,
  MemoryStore,
  readEvaluation,
  Store,
} from './eval/store.ts';
export { verifyEvaluation } from './eval/verify.ts';
export { type HostArray, toFloat32 } from './formats/array.ts';
export { type Checkpoint, type CheckpointFormat, openCheckpoint } from './formats/checkpoint.ts';
export { readJpeg } from './formats/jpeg.ts';
export { readNpy, writeNpy } from './formats/npy.ts';
export { readPng, writePng } from './formats/png.ts';
export { openSafetensors, writeSafetensors } from './formats/safetensors.node.ts';
export type { TensorToWrite } from './formats/safetensors.ts';
export { loadClassifier, loadConsistencyModel, loadPreset, shippedNetwork } from './models.ts';
export { configure, configureFrom, type TrainConfig } from './train/config.ts';
export { loadTrainingData, type TrainingData } from './train/data.ts';
export { train } from './train/loop.ts';
export { loadTuning, saveTuning, tuningPath } from './tuning.ts';
