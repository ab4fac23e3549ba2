// Checks objects of custom kinds, a JSON array on standard input, against what their projects publish; prints what is wrong.
// Run as a text, in the directory in which npm has installed the kinds.
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as prometheus from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const published = { "monitoring.coreos.com/v1": prometheus, "gateway.networking.k8s.io/v1": gateway };

let text = "";
for await (const piece of process.stdin) text += piece;
for (const found of JSON.parse(text)) {
  const Kind = published[found.apiVersion]?.[found.kind];
  try {
    if (!Kind) throw new Error("no such kind");
    new Kind(found).validate();
  } catch (error) {
    console.log(`${found.kind} ${found.metadata?.name}: ${error.message}`);
  }
}
