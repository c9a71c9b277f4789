// The least that an external processor can do for a routed request: read `model`, write another one.
//
// It is what the benchmark compares the processor with: gRPC's asynchronous API on one thread, each
// body parsed once, both body modes. Usage: echo unix:/path MODEL

#include <deque>
#include <iostream>
#include <string>

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <nlohmann/json.hpp>

#include "ext_proc.grpc.pb.h"

namespace {

namespace pb = envoy::service::ext_proc::v3;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxChunk = 62'000;
const char kModels[] = R"({"object":"list","data":[]})";

// One HTTP exchange. One read is always under way until Envoy ends the stream, and one write while
// there is something to write; the stream is finished, and this object gone, when both are over.
class Exchange {
 public:
  Exchange(pb::ExternalProcessor::AsyncService* service, grpc::ServerCompletionQueue* queue,
           const std::string& model)
      : service_(service), queue_(queue), model_(model), stream_(&context_) {
    service_->RequestProcess(&context_, &stream_, queue_, queue_, &began_);
  }

  struct Tag {
    Exchange* exchange;
    void (Exchange::*step)(bool ok);
  };

 private:
  void Began(bool ok) {
    if (!ok) {  // the server is shutting down
      delete this;
      return;
    }
    new Exchange(service_, queue_, model_);
    stream_.Read(&request_, &read_);
  }

  void Read(bool ok) {
    if (!ok) {
      ended_ = true;
      FinishIfOver();
      return;
    }
    Handle();
    stream_.Read(&request_, &read_);
  }

  void Wrote(bool ok) {
    writing_ = false;
    replies_.pop_front();
    if (!ok) replies_.clear();
    WriteNext();
    FinishIfOver();
  }

  void Finished(bool) { delete this; }

  void WriteNext() {
    if (writing_ || replies_.empty()) return;
    writing_ = true;
    stream_.Write(replies_.front(), &wrote_);
  }

  void FinishIfOver() {
    if (ended_ && !writing_) stream_.Finish(grpc::Status::OK, &finished_);
  }

  pb::ProcessingResponse* Reply() { return &replies_.emplace_back(); }

  void Handle() {
    switch (request_.request_case()) {
      case pb::ProcessingRequest::kRequestHeaders:
        Headers();
        break;
      case pb::ProcessingRequest::kRequestBody:
        body_ += request_.request_body().body();
        if (buffered_ || request_.request_body().end_of_stream()) Rewrite(false);
        break;
      case pb::ProcessingRequest::kRequestTrailers:
        if (buffered_) {
          Reply()->mutable_request_trailers();
        } else {
          Rewrite(true);
        }
        break;
      case pb::ProcessingRequest::kResponseHeaders:
        Reply()->mutable_response_headers();
        break;
      case pb::ProcessingRequest::kResponseBody:
        Reply()->mutable_response_body();
        break;
      case pb::ProcessingRequest::kResponseTrailers:
        Reply()->mutable_response_trailers();
        break;
      default:
        break;
    }
    WriteNext();
  }

  void Headers() {
    buffered_ =
        request_.protocol_config().request_body_mode() == pb::ProcessingMode::BUFFERED;
    if (!request_.request_headers().end_of_stream()) {
      if (buffered_) Reply()->mutable_request_headers();
      return;  // full duplex lets us keep the headers until the body is known
    }
    if (Header(":method") == "GET" && Header(":path") == "/v1/models") {
      auto* immediate = Reply()->mutable_immediate_response();
      immediate->mutable_status()->set_code(200);
      Set(immediate->mutable_headers(), "content-type", "application/json");
      immediate->set_body(kModels);
      immediate->set_details("looper.models");
    } else {
      Reply()->mutable_request_headers()->mutable_response()->set_clear_route_cache(true);
    }
  }

  std::string Header(const std::string& name) const {
    for (const auto& header : request_.request_headers().headers().headers())
      if (header.key() == name)
        return header.raw_value().empty() ? header.value() : header.raw_value();
    return "";
  }

  static void Set(pb::HeaderMutation* mutation, const std::string& name,
                  const std::string& value) {
    auto* header = mutation->add_set_headers()->mutable_header();
    header->set_key(name);
    header->set_raw_value(value);
  }

  void Rewrite(bool trailers) {
    auto json = Json::parse(body_, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("model")) {
      json["model"] = model_;
      body_ = json.dump();
    }
    auto* common = buffered_ ? Reply()->mutable_request_body()->mutable_response()
                             : Reply()->mutable_request_headers()->mutable_response();
    common->set_clear_route_cache(true);
    Set(common->mutable_header_mutation(), "x-looper-model", model_);
    if (buffered_) {
      Set(common->mutable_header_mutation(), "content-length", std::to_string(body_.size()));
      common->mutable_body_mutation()->set_body(std::move(body_));
      return;
    }
    std::size_t at = 0;
    do {
      auto* piece = Reply()
                        ->mutable_request_body()
                        ->mutable_response()
                        ->mutable_body_mutation()
                        ->mutable_streamed_response();
      piece->set_body(body_.substr(at, kMaxChunk));
      at += kMaxChunk;
      piece->set_end_of_stream(at >= body_.size() && !trailers);
    } while (at < body_.size());
    if (trailers) Reply()->mutable_request_trailers();
  }

  pb::ExternalProcessor::AsyncService* service_;
  grpc::ServerCompletionQueue* queue_;
  const std::string& model_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<pb::ProcessingResponse, pb::ProcessingRequest> stream_;
  Tag began_{this, &Exchange::Began};
  Tag read_{this, &Exchange::Read};
  Tag wrote_{this, &Exchange::Wrote};
  Tag finished_{this, &Exchange::Finished};
  pb::ProcessingRequest request_;
  std::deque<pb::ProcessingResponse> replies_;
  std::string body_;
  bool buffered_ = false;
  bool writing_ = false;
  bool ended_ = false;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: echo unix:/path MODEL\n";
    return 2;
  }
  const std::string model = arguments[2];
  grpc::EnableDefaultHealthCheckService(true);
  pb::ExternalProcessor::AsyncService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(arguments[1], grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  new Exchange(&service, queue.get(), model);
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
    auto* next = static_cast<Exchange::Tag*>(tag);
    (next->exchange->*next->step)(ok);
  }
}
