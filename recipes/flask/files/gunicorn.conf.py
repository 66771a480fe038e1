# Gunicorn's settings. `app:app` is the object `app` of the module app/app.py.
wsgi_app = "app:app"
chdir = "/opt/app/app"
bind = "unix:/run/app/gunicorn.sock"
# The socket is for this user and its group, which nginx is in.
umask = 0o007
workers = 4
# A worker that hangs for so many seconds is replaced. nginx gives up after the same time (nginx.conf).
timeout = 30
# Requests in progress may take so many seconds when the service stops; app.service waits a little longer.
graceful_timeout = 20
# Workers report that they live through a file; its folder must not be a disk.
worker_tmp_dir = "/dev/shm"
# To the journal. nginx logs the requests.
errorlog = "-"
# The socket of gunicornc would be in the user's home, which this user does not have.
control_socket_disable = True
