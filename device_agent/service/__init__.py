"""The gRPC service that applications call, and the runs behind it: joined, kept, handed over."""
