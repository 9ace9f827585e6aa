/**
 * What a GPU would choose for whole networks, with its capabilities: compiled on Dawn's null backend, which validates without a
 * GPU.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { defaultBatch } from '../src/cli/subject.ts';
import { paperCifar10 } from '../src/cmap/options.ts';
import { cmapDefence } from '../src/defences/cmap.ts';
import { vjp } from '../src/engine/autograd.ts';
import { Device } from '../src/engine/device.ts';
import { ClassifierNet } from '../src/nets/classifier.ts';
import { ConsistencyModel } from '../src/nets/consistency.ts';
import { ncsnpp } from '../src/nets/ncsnpp.ts';
import { type ParameterShapes, Parameters } from '../src/nets/parameters.ts';
import { wideResNet } from '../src/nets/wide-resnet.ts';

let device: Device;
test.before(async () => {
  device = await Device.open({ adapter: 'null' });
  assert.is(device.capabilities.cpu, false);
});

const empty = (shapes: ParameterShapes) =>
  new Parameters(
    new Map([...shapes].map(([name, { shape }]) => [name, device.keep(device.empty(shape))])),
    new Map(
      [...shapes].flatMap(([name, { shape, host }]) =>
        host ? [[name, new Float32Array(shape[0] as number)]] : [],
      ),
    ),
  );

test('ncsnpp-cifar10 at full size: the variants a GPU chooses compile, forward and gradient', async () => {
  const unet = ncsnpp({});
  const model = new ConsistencyModel(device, unet, empty(unet.parameters));
  const z = device.empty([2, 32, 32, 3]);
  const program = device.record('ncsnpp-cifar10', () => {
    const { output, pullback } = vjp((x) => model.generate(x), [z]);
    return pullback(output);
  });
  await program.prepare();
  await device.sync();
  assert.ok(program.cost.plannedBytes < program.cost.unplannedBytes / 2, 'planning shares memory');
  program.dispose();
  z.dispose();
  model.dispose();
  device.trim();
});

test('images together of an unset --batch: what a usual GPU can hold', () => {
  const unet = ncsnpp({});
  const architecture = wideResNet({});
  const model = new ConsistencyModel(device, unet, empty(unet.parameters));
  const classifier = new ClassifierNet(device, architecture, empty(architecture.parameters));
  const together = (k: number) => {
    const cmap = { ...paperCifar10, k };
    const opened = { defence: cmapDefence(model, classifier, cmap), imageShape: classifier.imageShape };
    return defaultBatch(device, { defence: 'cmap', cmap }, opened);
  };
  const [five, ten, thousand] = [together(5), together(10), together(1000)];
  assert.ok(ten >= 4 && ten <= 12, `${ten} images of ten latents`);
  assert.ok(five >= 2 * ten - 1 && five <= 2 * ten + 2, `${five} of five`);
  assert.is(thousand, 1);
  model.dispose();
  classifier.dispose();
});

test('wrn-28-10 at full size: the variants a GPU chooses compile, forward and gradient', async () => {
  const architecture = wideResNet({});
  const classifier = new ClassifierNet(device, architecture, empty(architecture.parameters));
  const x = device.empty([2, 32, 32, 3]);
  const program = device.record('wrn-28-10', () => {
    const { output, pullback } = vjp((u) => classifier.logits(u), [x]);
    return pullback(output);
  });
  await program.prepare();
  await device.sync();
  program.dispose();
  x.dispose();
  classifier.dispose();
});

test.run();
