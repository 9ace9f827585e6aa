/** A classifier of one's own: declared, trained on the device, saved for PyTorch, loaded again, attacked. */
import {
  type Architecture,
  ClassifierNet,
  classify,
  Device,
  kernels,
  loadFashionMnist,
  openSafetensors,
  Parameters,
  pgd,
  purposes,
  randomNormal,
  StateDict,
  type Tensor,
  unbindParameters,
  valueAndGrad,
  writeSafetensors,
} from 'cmap-webgpu';

// Names and layouts are those of a PyTorch state_dict; images are [N, H, W, C] in [0, 1], convolution kernels HWIO.
const declared = new StateDict();
declared.conv('conv1', 3, 1, 16);
declared.conv('conv2', 3, 16, 32);
declared.linear('fc', 7 * 7 * 32, 10);

const architecture: Architecture = {
  family: 'small-cnn',
  classes: 10,
  imageShape: [28, 28, 1],
  parameters: declared.parameters,
  forward(p, x) {
    const block = (h: Tensor, name: string) =>
      kernels.maxPool(
        kernels.relu(kernels.conv2d(h, p.get(`${name}.weight`), { bias: p.get(`${name}.bias`), padding: 1 })),
        2,
      );
    const features = kernels.reshape(block(block(x, 'conv1'), 'conv2'), [-1, 7 * 7 * 32]);
    return kernels.linear(features, p.get('fc.weight'), p.get('fc.bias'));
  },
};

const device = await Device.open();
const { images, labels } = loadFashionMnist({ count: 500 });
const [batch, pixels, trained] = [32, 28 * 28, 400];

// He initialisation; what is made outside of a scope lives until dispose().
const tensors = new Map<string, Tensor>();
for (const [name, { shape }] of architecture.parameters) {
  const inputs = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  const draw = { seed: 0, purpose: purposes.parameters, step: tensors.size };
  const weight = () => kernels.affine(randomNormal(device, shape, draw), Math.sqrt(2 / inputs));
  tensors.set(name, shape.length > 1 ? device.scope(weight) : device.zeros(shape));
}
const net = new ClassifierNet(device, architecture, new Parameters(tensors));

// One update, recorded once: x and y are written between its runs.
const x = device.zeros([batch, 28, 28, 1]);
const y = device.zeros([batch], 'u32');
const weights = [...tensors.values()];
const adam = new kernels.Adam(device, weights, { lr: 2e-3 });
const update = device.record('update', () => {
  const loss = (...moved: Tensor[]) => {
    const names = [...tensors.keys()];
    const parameters = net.parameters.with(new Map(names.map((name, i) => [name, moved[i] as Tensor])));
    return kernels.mean(kernels.crossEntropy(net.logitsOf(parameters, x), y));
  };
  const { value, gradients } = valueAndGrad(loss, weights);
  adam.step(gradients);
  return value;
});
export const losses: number[] = [];
for (let step = 0; step < 40; step++) {
  const rows = Array.from({ length: batch }, (_, i) => (step * batch + i) % trained);
  x.write(rows.flatMap((row) => Array.from(images.subarray(row * pixels, (row + 1) * pixels))));
  y.write(rows.map((row) => labels[row] as number));
  const [loss] = await update.run().floats();
  losses.push(loss as number);
}

// PyTorch reads the file by these names; so does ClassifierNet.load, or --net with a configuration for a shipped family.
writeSafetensors(
  'out/small-cnn.safetensors',
  await unbindParameters(architecture.parameters, net.parameters),
);
const file = openSafetensors('out/small-cnn.safetensors');
const again = ClassifierNet.load(device, architecture, file);
file.close();

const count = 32;
const test = device.tensor(images.subarray(trained * pixels, (trained + count) * pixels), [count, 28, 28, 1]);
const truth = labels.slice(trained, trained + count);
const share = async (of: Tensor) =>
  (await classify(again, of)).filter((label, i) => label === truth[i]).length / count;
export const clean = await share(test);
const eps = 16 / 255;
const attacked = await pgd(again, test, truth, {
  eps,
  steps: 5,
  stepSize: eps / 2,
  randomStart: true,
  seed: 0,
});
export const robust = await share(attacked);
console.log(`own classifier: right on ${100 * clean} % of ${count} images, under PGD on ${100 * robust} %`);

update.dispose();
adam.dispose();
net.dispose();
again.dispose();
for (const tensor of [x, y, test, attacked]) tensor.dispose();
export const left = device.memory().tensors;
device.close();
