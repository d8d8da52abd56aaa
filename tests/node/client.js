// A client of poolservice that knows nothing but pool.proto: what any language with a gRPC library can do.
//
//   node client.js ADDRESS PROTO_ROOT PICTURE
//
// Pools the picture and a tensor, asks for something impossible, and prints what came back as one JSON object.
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const googleProtos = require("google-proto-files");

const [address, protoRoot, picture] = process.argv.slice(2);

const definition = protoLoader.loadSync("poolservice/v1/pool.proto", {
  includeDirs: [protoRoot, googleProtos.getProtoPath("..")], // google/rpc/status.proto
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { PoolService } = grpc.loadPackageDefinition(definition).poolservice.v1;
const service = new PoolService(address, grpc.credentials.createInsecure());

function pool(request) {
  return new Promise((resolve, reject) => {
    service.Pool(request, { deadline: Date.now() + 30_000 }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

function base64(tensor) {
  return tensor && { dtype: tensor.dtype, shape: tensor.shape, data: tensor.data.toString("base64") };
}

function printable(response) {
  return {
    device: response.execution.device,
    results: response.results.map((result) => ({
      tensor: base64(result.tensor),
      indices: base64(result.indices),
    })),
  };
}

async function main() {
  const image = await pool({
    specs: [
      { spatial_dims: 2, max_pool: { kernel_size: [3], stride: [2], padding: [1] } },
      { spatial_dims: 2, global_avg_pool: {} },
    ],
    image: { data: fs.readFileSync(picture) },
  });

  // (2, 4, 6) float32: 0, 1.5, 3, ...
  const elements = Float32Array.from({ length: 48 }, (_, i) => 1.5 * i);
  const tensor = await pool({
    specs: [{ spatial_dims: 2, max_pool: { kernel_size: [2, 3], return_indices: true } }],
    tensor: { dtype: "DATA_TYPE_FLOAT32", shape: [2, 4, 6], data: Buffer.from(elements.buffer) },
  });

  const refusal = await pool({
    specs: [{ spatial_dims: 2, max_pool: { kernel_size: [2], padding: [2] } }],
    tensor: { dtype: "DATA_TYPE_FLOAT32", shape: [2, 4, 6], data: Buffer.from(elements.buffer) },
  }).then(
    () => null,
    (error) => ({ code: grpc.status[error.code], message: error.details }),
  );

  console.log(JSON.stringify({ image: printable(image), tensor: printable(tensor), refusal }));
}

main()
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => service.close());
